import csv
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
import yaml
from helpers.tiny_run import tiny_fit
from helpers.wandb_offline import history
from lightning import Trainer

import diffmedseg
from diffmedseg.cli import main
from diffmedseg.cli.main import COMMANDS


@pytest.mark.pictures
@pytest.mark.parametrize("model", ["medsegdiff-lite", "diffseg", "supervised", "ssn"])
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
    for text in ("Dice", "IoU", "GED (unbiased)", "Diversity", "Seconds per case", "diffmedseg evaluate", "cases.csv"):
        assert text in printed
    rows = list(csv.DictReader((run / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["test-0000", "test-0001", "test-0002"]
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["denoiser"]["init_args"]["mask_channels"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["trian"], 2, "no command 'trian'. Did you mean train"),
        (["train", "medsegdif"], 1, "no model 'medsegdif'. Did you mean medsegdiff"),
        (["train", "supervised", "isic17"], 1, "no data set 'isic17'. Did you mean isic2017"),
        (["train", "supervised", "synthetic", "--preset", "cup"], 1, "Did you mean cpu"),
        (["train", "--pretrained", "medsegdiff-lite_isic2017"], 1, "Did you mean medsegdiff-lite_isic2017.lite0"),
        (
            ["train", "supervised", "--pretrained", "medsegdiff-lite_isic2017.cpu64"],
            1,
            "Choose a model with this network (medsegdiff-lite,",
        ),
        (["predict", "medsegdiff-lite_isic2018.cpu64", "x", "--out", "y"], 1, "Did you mean medsegdiff-lite_isic2017"),
        (["zoo", "lst"], 2, "no command 'lst'. Did you mean list"),
        (["evaluate", "runs/none"], 1, "no run or checkpoint runs/none"),
    ],
)
def test_a_typo_suggests_what_was_meant(arguments, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr().err + str(end.value.code)
    assert message in said
    assert len(said) < 700  # not sixty names
    assert (2 if code == 2 else 1) == (end.value.code if isinstance(end.value.code, int) else 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [("--trainer.accelerator=mps", "not available"), ("--trainer.strategy=deepspeed", "DeepSpeed")],
)
def test_a_missing_device_or_package_is_an_error_without_traceback(option, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        main(tiny_fit(tmp_path, option))
    assert message in capsys.readouterr().err + str(end.value.code)


def test_version_and_overview(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"diffmedseg {diffmedseg.__version__}\n"
    main([])
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in COMMANDS)


def test_info_is_for_programs(capsys):
    main(["info", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["diffmedseg"] == version("diffmedseg")
    assert set(found["presets"]) == set(found["models"])
    assert "isic2017" in found["datasets"]
    assert found["entries"]["medsegdiff-lite_isic2017.cpu64"] == "trained"
    assert found["devices"][0].startswith("cpu")
    main(["info"])
    assert "medsegdiff-lite: cpu, gpu" in capsys.readouterr().out


def test_the_console_shows_no_noise(tmp_path):
    """In a process of its own: pytest catches what Lightning's loggers print."""
    command = [sys.executable, "-m", "diffmedseg", *tiny_fit(tmp_path, "--trainer.enable_progress_bar=false")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = done.stdout + done.stderr
    for noise in ("Tip:", "litlogger", "TPU", "FLOPs", "/-2", "GPU available", "Warning", "1 cases", "1 empty masks"):
        assert noise not in printed
    assert "MedSegDiff-Lite" in printed
    assert "Epoch" not in printed  # no progress bar


def test_other_callbacks_and_loggers_are_named(run, tmp_path):
    main(["evaluate", str(run), "--callbacks", "staple", "--logger", "csv", f"--runs={tmp_path}"])
    policy = json.loads((tmp_path / "medsegdiff-lite-synthetic" / "test_0" / "metrics.json").read_text())["policy"]
    assert policy["changed_by"] == ["MultiSampleEnsemble"]


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


def test_last_continues_in_the_newest_runs_folder_and_keeps_its_csv(run):
    before = list(csv.DictReader((run / "metrics.csv").open()))
    kept = [row for row in before if int(row["step"]) < 2]  # not the test of the shorter run
    assert len(kept) == len(before) - 1
    main(tiny_fit(run.parents[1], "--trainer.max_steps=4", "--ckpt_path=last"))
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert [{k: r[k] for k in kept[0]} for r in rows[: len(kept)]] == kept
    losses = [row for row in rows if row["train/loss"]]
    assert [(row["epoch"], row["step"]) for row in losses] == [(str(n), str(n)) for n in range(4)]
    assert sum(bool(row["test/dice"]) for row in rows) == 1
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_a_run_that_is_terminated_does_not_count_as_done(tmp_path, monkeypatch):
    """As where a scheduler takes its machine away; what comes after it must not start."""
    monkeypatch.setattr(Trainer, "received_sigterm", property(lambda trainer: trainer.global_step == 1))
    with pytest.raises(SystemExit) as found:
        main(tiny_fit(tmp_path))
    assert found.value.code == 143
    assert not list(tmp_path.rglob("cases.csv"))


def test_last_without_a_run_says_so(tmp_path):
    with pytest.raises(SystemExit, match="no run to resume"):
        main(tiny_fit(tmp_path, "--ckpt_path=last"))


def test_missing_data_says_what_to_download(tmp_path):
    with pytest.raises(SystemExit, match=r"(?s)error: No training set of ISIC 2018.*_Input\.zip.*--data\.root"):
        main(["train", "medsegdiff-lite", "isic2018", f"--runs={tmp_path}", f"--data.root={tmp_path / 'nothing'}"])
    assert not list(tmp_path.iterdir())  # a start that failed takes no number


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
    assert [path.name for path in (tmp_path / "medsegdiff-lite-synthetic").iterdir()] == ["version_0"]
    rows = list(csv.DictReader((tmp_path / "medsegdiff-lite-synthetic" / "version_0" / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["test-0000", "test-0001", "test-0002"]
    [logged] = (tmp_path / "medsegdiff-lite-synthetic" / "version_0" / "wandb").glob("offline-run-*")
    panels = [record["step"]["num"] for record in history(logged) if "val/panels._type" in record["item"]]
    assert len(panels) == 2  # epochs


def test_the_config_of_a_run_that_went_on_starts_a_new_run(run, monkeypatch):
    folder = run.parent
    main(tiny_fit(folder.parent, "--trainer.max_steps=3", "--ckpt_path=last"))
    config = yaml.safe_load((folder / "version_0" / "config.yaml").read_text())
    assert (config["ckpt_path"], config["trainer"]["max_steps"]) == (None, 3)
    before = (folder / "version_0" / "cases.csv").read_text()
    monkeypatch.delenv("DIFFMEDSEG_RUN_FOLDER")
    main(["fit", "-c", str(folder / "version_0" / "config.yaml"), "--trainer.max_steps=1"])
    assert (folder / "version_1" / "cases.csv").is_file()
    assert (folder / "version_0" / "cases.csv").read_text() == before


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--data.imgsize=32", "There is no setting --data.imgsize. Did you mean image_size"),
        ("--model.num_sampels=2", "There is no setting --model.num_sampels. Did you mean num_samples"),
        ("--trainer.max_step=6", "There is no setting --trainer.max_step. Did you mean --trainer.max_steps"),
        ("--prset=cpu", "There is no setting --prset. Did you mean --preset"),
        ("--model.denoiser.sise=tiny", "There is no setting --model.denoiser.sise. Did you mean size"),
    ],
)
def test_a_wrong_setting_is_said_in_a_line(option, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(tiny_fit(tmp_path, option))
    assert end.value.code == 2
    said = capsys.readouterr().err.split("error: ")[1]
    assert said.startswith(message)
    assert len(said.splitlines()) == 2


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m diffmedseg data list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("| `DATA`")
    assert not done.stderr
