"""Runs by name: what a model, a data set and a preset compose to."""

import pytest
import torch
import yaml
from helpers.composing import compose, instantiate, name
from helpers.process_state import kept_process_state
from helpers.tiny_run import EXPERIMENTS, TINY, load
from lightning.pytorch.callbacks import EarlyStopping

from diffmedseg.callbacks.order import check_order
from diffmedseg.cli import main
from diffmedseg.data.catalogue import dataset_info, may_be_volumes
from diffmedseg.errors import RecipeError
from diffmedseg.experiments import data_file, list_datasets, list_models, list_presets, read_settings
from diffmedseg.models.loading import chosen_checkpoint
from diffmedseg.postprocessing.fusion import SquaredMeanFusion, STAPLEFusion
from diffmedseg.recipes import recipe

CALLBACKS = sorted((EXPERIMENTS / "callbacks").glob("*.yaml"))
DEFAULT = "medsegdiff-lite"
OF_ENCODER = ("encoder", "encoder_weights", "encoder_mean", "encoder_frozen_norm", "decoder_channels")


def one_of_each_kind():
    """Return a data set of each kind; those of a kind compose to the same files, and differ in facts alone."""
    kinds = {}
    for data in list_datasets():
        settings = read_settings(data_file(data))
        several = dataset_info(settings["data"]).raters > 1
        kinds.setdefault((settings["data"]["class_path"], several, *settings.get("tags", ())), data)
    return list(kinds.values())


KINDS = one_of_each_kind()


def takes(model, data):
    return not model.endswith("-3d") or may_be_volumes(read_settings(data_file(data))["data"])


PAIRS = [
    (model, data)
    for model in list_models()
    for data in (list_datasets() if model == DEFAULT else KINDS)
    if takes(model, data)
]


@pytest.mark.parametrize(("model", "data"), PAIRS)
def test_models_compose_with_data_sets(model, data):
    cli = compose(model, data)
    assert cli.config.experiment == f"{model}-{data}"
    info = cli.datamodule.info
    assert info.name == data
    denoiser = cli.model.denoiser
    assert (denoiser.image_channels, denoiser.mask_channels) == (len(info.channels), len(info.regions))
    assert cli.model.image_size == cli.datamodule.image_size
    assert cli.model.regions == info.regions[: len(cli.model.regions)]  # labels tell nothing of inner regions


def test_a_model_of_volumes_takes_no_pictures():
    assert {data for model, data in PAIRS if model == "medsegdiff-lite-3d"} == {"brats", "nnunet", "volumes"}
    with pytest.raises(RecipeError, match="The model medsegdiff-lite-3d learns volumes, and chase has pictures"):
        recipe("medsegdiff-lite-3d", "chase")
    assert compose("supervised", "brats2015", "--data.depth=8").model.denoiser.spatial_dims == 3


@pytest.mark.parametrize("model", list_models())
@pytest.mark.parametrize("preset", list_presets())
def test_every_preset_composes(model, preset):
    together = ("isic2017", "chase") if takes(model, "chase") else ("brats2015", "lgg")
    if preset not in list_presets(model):
        with pytest.raises(RecipeError, match=f"The model {model} has no preset '{preset}'"):
            recipe(model, together[0], preset=preset)
        return
    for data in together:
        cli = compose(model, data, f"--preset={preset}")
        assert sum(p.numel() for p in cli.model.denoiser.parameters()) > 5e5


@pytest.mark.parametrize("callbacks", CALLBACKS, ids=name)
def test_callbacks_stand_in_an_order_that_is_accepted(callbacks):
    names = [one["class_path"] for one in yaml.safe_load(callbacks.read_text())["trainer"]["callbacks"]]
    chosen = compose("medsegdiff-lite", "synthetic", f"-c={callbacks}").config_init.trainer.callbacks
    check_order(chosen)
    assert [f"diffmedseg.callbacks.{type(one).__name__}" for one in chosen] == names


def test_the_paper_preset_is_the_published_configuration():
    cli = compose("medsegdiff", "isic2016", "--preset=paper")
    assert (cli.model.process.prediction, cli.model.process.num_train_steps) == ("epsilon", 1000)
    assert torch.allclose(1 - cli.model.process.betas[0] * torch.ones(()), torch.tensor(1 - 1e-4))  # no shift
    assert (cli.model.num_samples, cli.model.num_steps) == (25, 100)
    assert (cli.datamodule.image_size, cli.datamodule.batch_size, cli.datamodule.augment) == ((256, 256), 32, None)
    assert (cli.config.ema.decay, cli.config.trainer.gradient_clip_val) == (0.9999, None)
    assert (cli.model.warmup_steps, cli.model.cosine_decay) == (0, False)
    optimizer = cli.model.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (1e-4, 0)
    assert (type(cli.model.fusion), cli.model.fusion.start) == (STAPLEFusion, "votes")
    network = cli.model.denoiser
    assert network.shared_levels == 0  # eq. 2: time in the image encoder, too
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters() if "filter" in name}
    assert shapes == {"dynamic.2.filter.weight": (2, 256, 65, 33), "dynamic.3.filter.weight": (2, 256, 33, 17)}  # eq. 5
    assert not cli.config.early_stopping
    steps = cli.config.data.init_args.steps_per_epoch * cli.config.trainer.check_val_every_n_epoch
    assert (steps, cli.config.trainer.max_steps) == (5000, 100_000)
    assert cli.model.val_num_steps >= 50


def test_the_released_preset_is_the_recipe_of_the_released_code():
    cli = compose("medsegdiff", "isic2016", "--preset=released")
    assert (cli.model.num_samples, cli.model.num_steps, cli.datamodule.batch_size) == (5, 1000, 8)
    assert isinstance(cli.model.fusion, SquaredMeanFusion)
    assert (cli.config.trainer.limit_val_batches, cli.config.early_stopping) == (0, False)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_published_presets_train_to_the_end_and_test(preset, tmp_path):
    """Nothing ends them early; the best checkpoint is tested, and the last where nothing is validated."""
    rarely = ["--trainer.check_val_every_n_epoch=3"] if preset == "paper" else []
    settings = [*TINY, "--trainer.max_steps=4", "--model.denoiser.size=tiny", f"--runs={tmp_path}", *rarely]
    run = recipe("medsegdiff", "synthetic", preset=preset, settings=[*settings, "--model.denoiser.filter_size=16"])
    _, _, trainer = run.build()
    assert not [one for one in trainer.callbacks if isinstance(one, EarlyStopping)]
    with kept_process_state():
        main(["train", "medsegdiff", "synthetic", f"--preset={preset}", *run.settings])
    folder = tmp_path / "medsegdiff-synthetic" / "version_1"
    written = sorted(path.stem for path in (folder / "checkpoints").iterdir())
    assert written == (["best", "last"] if preset == "paper" else ["last"])
    steps = {one.stem: load(one)["global_step"] for one in (folder / "checkpoints").iterdir()}
    assert steps == {"best": 3, "last": 4} if preset == "paper" else {"last": 4}
    assert chosen_checkpoint(folder).stem == written[0]
    assert (folder / "cases.csv").is_file()


@pytest.mark.parametrize(("model", "data"), [pair for pair in PAIRS if pair[0].startswith("medsegdiff")])
def test_fidelity_to_raters_is_not_traded_for_dice(model, data):
    """The Dice term seeks modes: fine where one rater is all there is, and only there."""
    cli = compose(model, data)
    assert (cli.model.loss.dice > 0) == (cli.datamodule.info.raters == 1)


@pytest.mark.parametrize("model", ["medsegdiff", "medsegdiff-lite", "medsegdiff-v2", "supervised"])
def test_where_masks_are_often_empty_dice_is_taken_over_batches(model):
    """An empty answer would win a whole Dice with each of them; all else stays what the network recommends."""
    for data, over in (("lidc_slices", "batch"), ("lgg", "batch"), ("chase", "image"), ("isic2017", "image")):
        built = compose(model, data).model
        if model == "supervised":
            assert built.dice_over == over
            continue
        assert built.prior_loss.dice_over == over
        assert built.prior_loss.bce == (10 if model == "medsegdiff-v2" else 1)
        assert built.loss.dice_over == over
        own = compose(model, data, "--model.prior_loss.dice=2").model.prior_loss
        assert (own.dice, own.dice_over) == (2, over)  # a loss of one's own keeps it
        own = compose(model, data, "--model.prior_loss.dice_over=image").model.prior_loss
        assert own.dice_over == "image"  # unless it says otherwise


def test_best_and_early_stopping_follow_the_score_that_no_empty_answer_wins():
    trainer = compose("medsegdiff-lite", "lidc_slices").config.trainer
    callbacks = [one.init_args for one in trainer.callbacks if "monitor" in one.get("init_args", {})]
    monitors = [(one.monitor, one.mode) for one in callbacks if one.monitor]
    assert monitors == [("val/score", "max")] * 2


def test_the_supervised_baseline_has_the_budget_of_what_it_is_compared_with():
    pairs = [("medsegdiff", "cpu", "none"), ("medsegdiff", "gpu", "none"), ("medsegdiff", "paper", "none")]
    pairs += [("medsegdiff-lite", "cpu", "lite0"), ("medsegdiff-lite", "gpu", "lite0")]
    for other, preset, encoder in pairs:
        own = () if other == "medsegdiff" else (f"--encoder={encoder}",)  # which takes none
        first = compose(other, "isic2017", f"--preset={preset}", *own).config
        second = compose("supervised", "isic2017", f"--preset={preset}", f"--encoder={encoder}").config
        for part in ("trainer", "ema", "data"):
            assert first[part] == second[part]
        same = ["optimizer", "warmup_steps", "cosine_decay"]
        same += (
            ["denoiser.init_args.size"] if encoder == "none" else [f"denoiser.init_args.{name}" for name in OF_ENCODER]
        )
        for setting in same:
            assert first.model.init_args.get(setting) == second.model.init_args.get(setting)


def test_seed_reaches_model_and_data_but_not_the_split():
    cli = compose("medsegdiff-lite", "isic2017", "--seed_everything=3")
    assert (cli.model.seed, cli.datamodule.seed, cli.datamodule.split_seed) == (3, 3, 0)


def test_names_of_before_are_understood():
    assert recipe("medsegdiff-v1", "chase") == recipe("medsegdiff", "chase")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"model": "medsegdif-lite"}, "no model 'medsegdif-lite'. Did you mean medsegdiff-lite"),
        ({"data": "isic17"}, "no data set 'isic17'. Did you mean isic2017"),
        ({"preset": "cup"}, "has no preset 'cup'. Did you mean cpu"),
        ({"model": "xyz"}, "There are: diffseg, medsegdiff, medsegdiff-lite"),
        ({"data": "nowhere/own.yaml"}, "no file nowhere/own.yaml"),
    ],
)
def test_a_name_that_does_not_exist_suggests_one_that_does(names, message):
    with pytest.raises(RecipeError, match=message):
        recipe(**names)


def test_where_the_data_is(monkeypatch):
    monkeypatch.delenv("DIFFMEDSEG_DATA", raising=False)
    assert recipe(data="isic2017").settings == ()
    monkeypatch.setenv("DIFFMEDSEG_DATA", "/all")
    assert recipe(data="isic2017").settings == ("--data.root=/all/isic2017",)
    assert recipe(data="isic2017", root="/my data").settings == ("--data.root=/my data",)
    assert recipe(data="synthetic").settings == ()  # it is made, not read


def test_yaml_files_of_ones_own_take_the_place_of_names(tmp_path):
    model = tmp_path / "mine.yaml"
    model.write_text((EXPERIMENTS / "model" / "supervised.yaml").read_text())
    data = tmp_path / "eyes.yaml"
    data.write_text((EXPERIMENTS / "data" / "chase.yaml").read_text().replace("title: CHASE_DB1", "title: Eyes"))
    run = recipe(model, data)
    assert run.name == "mine-eyes"
    cli = instantiate(run.files)
    assert (cli.datamodule.info.title, cli.model.name) == ("Eyes", "supervised")


def test_four_statements_train_and_test(tmp_path):
    settings = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--data.image_size=16", "--data.num_train=4",
                "--data.num_val=1", "--data.num_test=2", "--data.steps_per_epoch=1", f"--runs={tmp_path}"]  # fmt: skip
    run = recipe("supervised", "synthetic", settings=settings)
    model, data, trainer = run.build()
    trainer.fit(model, data)
    [scores] = trainer.test(model, data, verbose=False)
    assert 0 <= scores["test/dice"] <= 1
    folder = tmp_path / "supervised-synthetic" / "version_0"
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert (folder / "config.yaml").is_file()
    main(["evaluate", str(folder), f"--runs={tmp_path}"])
    assert (tmp_path / "supervised-synthetic" / "test_0" / "cases.csv").is_file()


@pytest.mark.parametrize("folders", [("masks",), ("masks_a", "masks_b"), ("masks_a", "masks_b", "masks_c")])
def test_the_masks_of_several_raters_choose_the_settings_for_them(tmp_path, folders):
    for folder in ("images", *folders):
        (tmp_path / folder).mkdir()
    run = recipe("medsegdiff-lite", "folder", root=tmp_path)
    assert run.for_several_raters == (len(folders) > 1)
    own = tmp_path / "own.yaml"
    own.write_text((EXPERIMENTS / "data" / "folder.yaml").read_text())
    assert recipe("medsegdiff-lite", own, root=tmp_path).for_several_raters == (len(folders) > 1)
    assert not recipe("supervised", "folder", root=tmp_path).for_several_raters  # it has no such settings


def test_a_class_of_ones_own_is_not_loaded_to_count_raters(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("data: {class_path: not_there.Data, init_args: {}}")
    assert not recipe("medsegdiff-lite", own).for_several_raters
