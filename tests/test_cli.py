import csv
import os
import re
import subprocess
import sys

import pytest
import torch
import yaml
from lightning import Trainer
from tiny_run import EXPERIMENTS, tiny_fit
from wandb_offline import history

from diffmedseg.callbacks.order import check_order
from diffmedseg.cli import DiffMedSegCLI, main
from diffmedseg.data import SegmentationDataModule
from diffmedseg.models import DiffusionSegmenter

FILES = sorted(
    path for path in EXPERIMENTS.glob("*/*.yaml") if path.parent.name not in {"model", "data", "logger", "sweeps"}
)
PAIRS = [path for path in FILES if "experiment" in yaml.safe_load(path.read_text())]
CALLBACKS = sorted((EXPERIMENTS / "callbacks").glob("*.yaml"))
MEMBERS = sorted(EXPERIMENTS.glob("*/member/*.yaml"))
PRESETS = [path for path in FILES if path not in {*PAIRS, *CALLBACKS}]


def instantiate(files, *options):
    """Build everything a config describes without running: what is large, that of the papers, on the meta device."""

    class Quiet(DiffMedSegCLI):
        def instantiate_trainer(self, **kwargs):
            return Trainer(logger=False, enable_checkpointing=False)

    arguments = [part for file in files for part in ("-c", str(file))]
    with torch.device("meta" if any(file.stem == "paper" for file in files) else "cpu"):
        return Quiet(
            DiffusionSegmenter,
            SegmentationDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            run=False,
            args=[*arguments, *options],
        )


def name(path):
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("pair", PAIRS, ids=name)
def test_every_pair_builds_with_what_the_data_knows(pair):
    cli = instantiate([EXPERIMENTS / "base.yaml", pair])
    assert cli.config.experiment == f"{pair.parent.name}-{pair.stem}"
    assert cli.datamodule.info.name == pair.stem
    info = cli.datamodule.info
    assert (cli.model.denoiser.image_channels, cli.model.denoiser.mask_channels) == (
        len(info.channels),
        len(info.regions),
    )
    assert cli.model.image_size == cli.datamodule.image_size
    assert cli.model.regions == info.regions[: len(cli.model.regions)]  # labels tell nothing of inner regions


@pytest.mark.parametrize("preset", PRESETS, ids=name)
def test_every_preset_builds(preset):
    pair = preset.parent / "isic2017.yaml"
    cli = instantiate([EXPERIMENTS / "base.yaml", pair, preset])
    assert sum(p.numel() for p in cli.model.denoiser.parameters()) > 5e5


@pytest.mark.parametrize("member", MEMBERS, ids=name)
@pytest.mark.parametrize("data", ["isic2017", "chase", "brats"])
def test_every_member_of_a_family_builds(member, data):
    family = member.parent.parent
    cli = instantiate([EXPERIMENTS / "base.yaml", family / f"{data}.yaml", member, family / "gpu.yaml"])
    assert type(cli.model.denoiser).__name__.lower().endswith(member.stem)
    assert cli.model.denoiser.mask_channels == len(cli.datamodule.info.regions)
    chosen = yaml.safe_load(member.read_text())["model"]["init_args"]
    assert cli.model.noise_levels == chosen.get("noise_levels", 1)


@pytest.mark.parametrize("callbacks", CALLBACKS, ids=name)
def test_callbacks_stand_in_an_order_that_is_accepted(callbacks):
    pair = EXPERIMENTS / "medsegdiff" / "synthetic.yaml"
    names = [one["class_path"] for one in yaml.safe_load(callbacks.read_text())["trainer"]["callbacks"]]
    chosen = instantiate([EXPERIMENTS / "base.yaml", pair, callbacks]).config_init.trainer.callbacks
    check_order(chosen)
    assert [f"diffmedseg.callbacks.{type(one).__name__}" for one in chosen] == names


def test_every_model_has_every_preset():
    models = {path.parent.name for path in PAIRS}
    expected = {f"{model}/{preset}" for model in models for preset in ("cpu", "gpu", "paper")}
    assert {name(path) for path in PRESETS} >= expected


def test_the_paper_preset_is_the_published_configuration():
    files = [EXPERIMENTS / "base.yaml", EXPERIMENTS / "medsegdiff" / "isic2016.yaml"]
    cli = instantiate([*files, EXPERIMENTS / "medsegdiff" / "paper.yaml"])
    assert (cli.model.process.prediction, cli.model.process.num_train_steps) == ("epsilon", 1000)
    assert torch.allclose(1 - cli.model.process.betas[0] * torch.ones(()), torch.tensor(1 - 1e-4))  # no shift
    assert (cli.model.num_samples, cli.model.num_steps) == (25, 100)
    assert (cli.datamodule.image_size, cli.datamodule.batch_size, cli.datamodule.augment) == ((256, 256), 32, None)
    assert (cli.config.ema.decay, cli.config.trainer.gradient_clip_val) == (0.9999, None)
    assert (cli.model.warmup_steps, cli.model.cosine_decay) == (0, False)
    optimizer = cli.model.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-4, 0)


@pytest.mark.parametrize("pair", [path for path in PAIRS if path.parent.name == "medsegdiff"], ids=name)
def test_fidelity_to_raters_is_not_traded_for_dice(pair):
    """The Dice term seeks modes: fine where one rater is all there is, and only there."""
    cli = instantiate([EXPERIMENTS / "base.yaml", pair])
    assert (cli.model.loss.dice > 0) == (cli.datamodule.info.raters == 1)


def test_the_control_has_the_budget_of_what_it_controls():
    for preset in ("cpu", "gpu", "paper"):
        settings = []
        for model in ("medsegdiff", "supervised"):
            found = yaml.safe_load((EXPERIMENTS / model / f"{preset}.yaml").read_text())
            init = found["model"]["init_args"]
            own = {key: init.get(key) for key in ("optimizer", "warmup_steps", "cosine_decay")}
            settings.append((found["trainer"], found.get("data"), found.get("ema"), init["denoiser"]["init_args"], own))
        assert settings[0] == settings[1]


def test_every_model_and_data_set_has_its_pair():
    models, data = {p.parent.name for p in PAIRS}, {p.stem for p in (EXPERIMENTS / "data").glob("*.yaml")}
    assert {name(path) for path in PAIRS} == {f"{m}/{d}" for m in models for d in data}


def test_seed_reaches_model_and_data_but_not_the_split():
    cli = instantiate([EXPERIMENTS / "base.yaml", EXPERIMENTS / "medsegdiff" / "isic2017.yaml"], "--seed_everything=3")
    assert (cli.model.seed, cli.datamodule.seed, cli.datamodule.split_seed) == (3, 3, 0)


@pytest.mark.parametrize("model", ["medsegdiff", "diffseg", "supervised"])
def test_fit_tests_the_best_checkpoint_and_writes_everything(model, tmp_path, capsys):
    main(tiny_fit(tmp_path, model=model))
    run = tmp_path / f"{model}-synthetic" / "version_0"
    for file in (
        "config.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.csv",
        "cases.csv",
        "panel.png",
    ):
        assert (run / file).stat().st_size > 0
    printed = capsys.readouterr().out
    for text in ("Dice", "IoU", "GED (unbiased)", "Diversity", "Seconds per case", "make evaluate CKPT=", "cases.csv"):
        assert text in printed
    rows = list(csv.DictReader((run / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["test-0000", "test-0001", "test-0002"]
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["denoiser"]["init_args"]["mask_channels"] == 1


def test_a_saved_config_runs_again_into_a_new_folder(run):
    main(["fit", "-c", str(run / "config.yaml")])
    again = run.parent / "version_1"
    assert (again / "cases.csv").is_file()
    for key in ("model", "data", "seed_everything"):
        configs = [yaml.safe_load((folder / "config.yaml").read_text())[key] for folder in (run, again)]
        assert configs[0] == configs[1]
    a, b = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for folder in (run, again)
    )
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_checkpoint_is_evaluated_with_other_settings(run, capsys):
    options = ["--model.num_samples=3", f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}"]
    before = (run / "cases.csv").read_text()
    main(["test", "-c", str(run / "config.yaml"), *options])
    rows = list(csv.DictReader((run.parent / "test_0" / "cases.csv").open()))
    assert {row["num_samples"] for row in rows} == {"3"}
    assert (run / "cases.csv").read_text() == before


def test_last_continues_in_the_newest_runs_folder_and_keeps_its_csv(tmp_path, monkeypatch):
    main(tiny_fit(tmp_path))
    folder = tmp_path / "medsegdiff-synthetic" / "version_0"
    before = list(csv.DictReader((folder / "metrics.csv").open()))
    kept = [row for row in before if int(row["step"]) < 2]  # not the test of the shorter run
    assert len(kept) == len(before) - 1
    monkeypatch.delenv("DIFFMEDSEG_RUN_FOLDER")
    main(tiny_fit(tmp_path, "--trainer.max_steps=4", "--ckpt_path=last"))
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"]
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [{k: r[k] for k in kept[0]} for r in rows[: len(kept)]] == kept
    losses = [row for row in rows if row["train/loss"]]
    assert [(row["epoch"], row["step"]) for row in losses] == [(str(n), str(n)) for n in range(4)]
    assert sum(bool(row["test/dice"]) for row in rows) == 1
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_run_that_is_terminated_does_not_count_as_done(tmp_path, monkeypatch):
    """As where a scheduler takes its machine away; what comes after it must not start."""
    monkeypatch.setattr(Trainer, "received_sigterm", property(lambda trainer: trainer.global_step == 1))
    with pytest.raises(SystemExit) as found:
        main(tiny_fit(tmp_path))
    assert found.value.code == 143
    assert not list(tmp_path.rglob("cases.csv"))


def test_last_without_a_run_says_so(tmp_path):
    with pytest.raises(SystemExit, match="no run to continue"):
        main(tiny_fit(tmp_path, "--ckpt_path=last"))


def test_missing_data_says_what_to_download(tmp_path):
    files = [f"-c={EXPERIMENTS / 'base.yaml'}", f"-c={EXPERIMENTS / 'medsegdiff' / 'isic2018.yaml'}"]
    with pytest.raises(SystemExit, match=r"(?s)error: No training set of ISIC 2018.*_Input\.zip.*DATA_DIR"):
        main(["fit", *files, f"--runs={tmp_path}", f"--data.root={tmp_path / 'nothing'}"])
    assert not list((tmp_path / "medsegdiff-isic2018").iterdir())  # a start that failed takes no number


def test_fast_dev_run_writes_and_tests_nothing(tmp_path):
    main(tiny_fit(tmp_path, "--trainer.fast_dev_run=true"))
    assert not list(tmp_path.rglob("cases.csv"))


@pytest.mark.parametrize(
    "option",
    ["--model.num_smaples=3", "--model.num_samples=many", "--data.image_size=big", "--trainer.max_stepz=1",
     "--model.denoiser.size=huge", "--model.process.prediction=noise"],
)  # fmt: skip
def test_typos_and_wrong_types_are_refused_before_anything_starts(option, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(tiny_fit(tmp_path, option))
    assert error.value.code == 2
    assert re.search(option[2:].split("=")[0].split(".")[-1], capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_two_processes_started_by_the_cli_share_a_folder(tmp_path):
    """DDP starts the second process with the same command line: it must not open a run of its own, nor one of W&B."""
    arguments = tiny_fit(tmp_path, "--trainer.devices=2", "--trainer.strategy=ddp")
    command = [sys.executable, "-m", "diffmedseg", *arguments]
    environment = os.environ | {"WANDB_MODE": "offline"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [path.name for path in (tmp_path / "medsegdiff-synthetic").iterdir()] == ["version_0"]
    rows = list(csv.DictReader((tmp_path / "medsegdiff-synthetic" / "version_0" / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["test-0000", "test-0001", "test-0002"]
    [logged] = (tmp_path / "medsegdiff-synthetic" / "version_0" / "wandb").glob("offline-run-*")
    panels = [record["step"]["num"] for record in history(logged) if "val/panels._type" in record["item"]]
    assert len(panels) == 2  # epochs
