"""Runs on an encoder: composed by name, and evaluated without what the encoder's weights came from."""

import csv

import pytest
import torch
from helpers.composing import instantiate
from helpers.tiny_run import load, tiny_fit
from lightning import Trainer
from safetensors.torch import save_file

from diffmedseg import load_checkpoint
from diffmedseg.cli import main
from diffmedseg.errors import RecipeError
from diffmedseg.files import read_yaml
from diffmedseg.models import SMPNetwork, SupervisedSegmenter
from diffmedseg.recipes import recipe

SMALL = "mobilenetv3_small_050"  # of timm, which knows its mean and deviation
PRESET_RUNS = [
    ("isic2017", "cpu"), ("isic2018", "gpu"), ("isic2017", None), ("synthetic", "cpu"), ("chase", "gpu"),
]  # fmt: skip
MEAN = [0.485, 0.456, 0.406]


def compose(model, *settings, data="synthetic", **options):
    run = recipe(model, data, settings=settings, **options)
    network = [argument for argument in run.arguments if argument.startswith("--model.denoiser=")]
    return instantiate(run.files, f"--experiment={run.name}", *network, *run.settings)


def dice(folder):
    with (folder / "cases.csv").open() as file:
        return [(row["case"], row["dice"]) for row in csv.DictReader(file)]


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(1)
    file = tmp_path / "encoder.safetensors"
    save_file(SMPNetwork(3, 1, encoder=SMALL).network.encoder.state_dict(), file)
    return file


def own_network(network):
    """The part that is the supervised baseline's network."""
    return getattr(network, "condition", getattr(network, "trunk", network))


@pytest.mark.parametrize("preset", [None, "cpu"])
def test_the_baseline_is_the_network_that_conditions_the_others(preset):
    networks = [
        compose(model, preset=preset, encoder=SMALL, encoder_weights="none").model.denoiser
        for model in ("supervised", "medsegdiff-lite", "medsegdiff-v2", "ssn")
    ]
    baseline, *conditions = [own_network(network) for network in networks]
    shapes = {name: value.shape for name, value in baseline.state_dict().items()}
    assert type(baseline) is SMPNetwork
    for condition in conditions:
        assert {name: value.shape for name, value in condition.state_dict().items()} == shapes


@pytest.mark.parametrize("width", ["slim", "[96, 48, 32, 16, 16]"])
def test_the_decoder_is_set_alike_for_all(width):
    setting = f"--model.denoiser.decoder_channels={width}"
    for model in ("supervised", "medsegdiff-lite", "medsegdiff-v2", "ssn"):
        network = compose(model, setting, encoder=SMALL, encoder_weights="none").model.denoiser
        assert network._init_args["decoder_channels"] == [96, 48, 32, 16, 16]
        assert own_network(network).decoded_channels == 16


@pytest.mark.parametrize("model", ["medsegdiff-lite", "medsegdiff-v2", "supervised", "ssn"])
def test_presets_take_the_encoder_that_the_data_recommends(model):
    found = [recipe(model, data, preset=preset).encoder for data, preset in PRESET_RUNS]
    assert found == ["lite0", "lite0", None, None, None]
    assert recipe(model, "isic2017", preset="cpu", encoder="none").encoder is None
    assert recipe(model, "isic2017", preset="cpu", encoder="resnet18").encoder == "resnet18"
    files = [path.name for path in recipe(model, "isic2017", preset="cpu").files]
    assert files[-3:] == ["encoder.yaml", "cpu.yaml", "cpu+encoder.yaml"]


def test_networks_of_volumes_are_on_no_recommended_encoder():
    encoders = {
        "slices": recipe("supervised", "lgg", preset="cpu").encoder,
        "stacks": recipe("supervised", "lgg", preset="cpu", settings=["--data.depth", "8"]).encoder,
        "3d": recipe("medsegdiff-lite-3d", "lgg", preset="cpu").encoder,
    }
    assert encoders == {"slices": "lite0", "stacks": None, "3d": None}


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_data_of_patches_keep_their_image_size(preset):
    options = {"preset": preset, "encoder": SMALL, "encoder_weights": "none"}
    assert compose("supervised", data="chase", **options).datamodule.image_size == (512, 512)
    chosen = compose("supervised", "--data.image_size=256", data="chase", **options)
    assert (chosen.datamodule.image_size, chosen.datamodule.patch) == ((256, 256), 128)


def test_models_without_an_encoder_have_their_presets():
    assert recipe("medsegdiff", "isic2017", preset="cpu").encoder is None
    assert (
        recipe("medsegdiff-lite", "isic2017", preset="cpu", pretrained="medsegdiff-lite_isic2017.cpu64").encoder is None
    )


def test_an_encoder_learns_more_slowly_unless_told_otherwise():
    run = compose("medsegdiff-lite", encoder=SMALL, encoder_weights="none")
    assert run.model.encoder_lr == 0.3
    run = compose("medsegdiff-lite", "--model.encoder_lr=1", encoder=SMALL, encoder_weights="none")
    assert run.model.encoder_lr == 1


def shapes(model):
    return {name: weight.shape for name, weight in model.denoiser.state_dict().items()}


def test_none_is_the_models_own_network():
    for model in ("medsegdiff-lite", "medsegdiff-v2", "supervised", "ssn"):
        own, chosen = compose(model).model, compose(model, encoder="none").model
        assert type(own.denoiser) is type(chosen.denoiser)
        assert shapes(own) == shapes(chosen)
        assert own.encoder_lr == chosen.encoder_lr


@pytest.mark.parametrize("model", ["medsegdiff", "diffseg"])
def test_a_model_without_an_encoder_says_so(model):
    with pytest.raises(RecipeError, match=f"The model {model} takes no encoder. Choose medsegdiff-lite"):
        recipe(model, "synthetic", encoder="lite0")


def test_contradictions_are_refused():
    with pytest.raises(RecipeError, match="needs an encoder"):
        recipe("medsegdiff-lite", "synthetic", encoder_weights="imagenet")
    with pytest.raises(RecipeError, match="Give pretrained or encoder, not both"):
        recipe("medsegdiff-lite", "synthetic", encoder="lite0", pretrained="medsegdiff-lite_synthetic.tiny")


def test_a_run_needs_its_encoders_weights_once(weights, tmp_path, monkeypatch, capsys):
    """Going on, evaluating and loading take all from the checkpoint, the normalisation included."""
    monkeypatch.chdir(tmp_path)
    options = [
        f"--encoder={SMALL}", f"--encoder_weights={weights}", "--model.encoder_lr=0.5", "--data.image_size=32",
        "--model.denoiser.encoder_frozen_norm=true", "--logger=csv",
    ]  # fmt: skip
    main(tiny_fit(tmp_path / "runs", *options))
    assert "in eval mode" not in capsys.readouterr().err  # frozen layers are no reason to doubt a run
    run = tmp_path / "runs" / "medsegdiff-lite-synthetic" / "version_0"
    denoiser = read_yaml(run / "config.yaml")["model"]["init_args"]["denoiser"]["init_args"]
    assert denoiser["encoder_mean"] == MEAN
    first = load_checkpoint(run / "checkpoints" / "last.ckpt")
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prior = first.denoiser.eval().encode(image).prior
    scores = dice(run)

    weights.unlink()
    again = load_checkpoint(run / "checkpoints" / "last.ckpt")
    assert again.denoiser.condition.encoder_mean == MEAN
    assert torch.equal(again.denoiser.eval().encode(image).prior, prior)

    main(["evaluate", str(run)])
    assert dice(run.parent / "test_0") == scores

    main(tiny_fit(tmp_path / "runs", *options, "--trainer.max_steps=3", "--ckpt_path=last"))
    content = load(run / "checkpoints" / "last.ckpt")
    assert content["global_step"] == 3
    with pytest.raises(SystemExit, match=r"has encoder_lr 0\.5, and this run has 1\..* give --model\.encoder_lr 0\.5"):
        main(tiny_fit(tmp_path / "runs", *options, "--model.encoder_lr=1", "--trainer.max_steps=4", "--ckpt_path=last"))
    assert load(run / "checkpoints" / "last.ckpt")["global_step"] == 3
    stored = content["hyper_parameters"]["denoiser"]["init_args"]
    assert (stored["encoder_mean"], stored["encoder_weights"]) == (MEAN, str(weights))
    assert [group["name"] for group in content["optimizer_states"][0]["param_groups"]] == ["network", "encoder"]


def test_a_wrong_encoder_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(tiny_fit(tmp_path, "--encoder=resnet43"))
    assert error.value.code == 2
    assert "error: There is no encoder 'resnet43'. Did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("width", [{}, {"encoder_depth": 4, "decoder_channels": [8, 8, 8, 8]}])
def test_the_recipe_of_lite_takes_the_network_of_the_baseline_that_it_starts_from(width, tmp_path):
    torch.manual_seed(0)
    network = SMPNetwork(3, 1, encoder="tu-test_efficientnet", encoder_frozen_norm=True, **width)
    colours = ("red", "green", "blue")
    source = SupervisedSegmenter(network, image_size=(32, 32), channels=colours, regions=("lesion",))
    file = tmp_path / "baseline.ckpt"
    Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=0).strategy.connect(source)
    torch.save({"hyper_parameters": dict(source.hparams), "state_dict": source.state_dict()}, file)
    settings = ["--model.denoiser.condition_frozen=true", f"--runs={tmp_path}"]
    model, _, _ = recipe("medsegdiff-lite", "synthetic", pretrained=file, settings=settings).build()
    own = model.denoiser
    assert isinstance(own.condition, SMPNetwork)
    assert own.condition.frozen_norm
    assert own.condition_frozen
    assert own.condition.decoder_channels == network.decoder_channels
    assert [value.shape for value in own.condition.state_dict().values()] == [
        value.shape for value in network.state_dict().values()
    ]
    with pytest.raises(
        RecipeError, match=r"has the network SMPNetwork; .*Choose a model with this network \(supervised\)"
    ):
        recipe("medsegdiff", "synthetic", pretrained=file)


def test_fine_tuning_goes_on_at_the_grid_and_the_rates_of_an_encoder():
    started = recipe("medsegdiff-lite", "isic2018", preset="cpu", pretrained="supervised_isic2017.lite0")
    assert [file.name for file in started.files][-3:] == ["encoder.yaml", "cpu.yaml", "cpu+encoder.yaml"]
    assert "--data.image_size=[192, 192]" in started.settings
    chosen = recipe("supervised", "isic2018", pretrained="supervised_isic2017.lite0", settings=["--data.image_size=64"])
    assert [one for one in chosen.settings if "image_size" in one][-1] == "--data.image_size=64"  # who says so decides
    assert chosen.files[-1].name == "encoder.yaml"


def test_fine_tuning_a_network_of_its_own_takes_its_grid_alone():
    started = recipe("medsegdiff-lite", "folder", preset="gpu", pretrained="medsegdiff-lite_isic2017.cpu64")
    assert not [file for file in started.files if "encoder" in file.name]
    assert "--data.image_size=[64, 64]" in started.settings
    patches = recipe("medsegdiff-lite", "chase", preset="cpu", pretrained="medsegdiff-lite_isic2017.cpu64")
    plain = recipe("medsegdiff-lite", "chase", preset="cpu")
    assert [one for one in patches.settings if "image_size" in one] == [
        one for one in plain.settings if "image_size" in one
    ]
