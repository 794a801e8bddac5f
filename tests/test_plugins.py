"""A package outside the project: its network, loss, fusion, optimiser and data train, and load where it is trusted."""

import logging
import shutil
import sys

import pytest
import torch
import yaml
from helpers.process_state import kept_process_state
from helpers.tiny_run import EXPERIMENTS
from PIL import Image

from diffmedseg import load_checkpoint, load_pretrained, zoo
from diffmedseg.cli import main
from diffmedseg.configurable import to_config
from diffmedseg.data import DataError
from diffmedseg.data.configured import build_data
from diffmedseg.data.synthetic import SyntheticStore
from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter
from diffmedseg.plugins import trusted_packages
from diffmedseg.zoo import ZooError, build, checkpoint_config
from diffmedseg.zoo.checking import verify_entry

# All that a user has to write. The last line tells whether anybody imported it.
PACKAGE = """
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import torch
from torch import nn

from diffmedseg.data import SegmentationDataModule, SyntheticDataModule
from diffmedseg.data.synthetic import SyntheticStore
from diffmedseg.diffusion import DiffusionLoss
from diffmedseg.postprocessing.fusion import Fusion
from diffmedseg.models import Condition, Denoiser
from diffmedseg.models.denoiser import repeat_for_samples


class OwnNet(Denoiser):
    def __init__(self, image_channels: int, mask_channels: int, width: int = 8) -> None:
        super().__init__(image_channels, mask_channels)
        first = nn.Conv2d(image_channels + mask_channels, width, 3, padding=1)
        self.layers = nn.Sequential(first, nn.SiLU(), nn.Conv2d(width, mask_channels, 3, padding=1))

    def encode(self, image):
        return Condition((image,))

    def forward(self, x_t, t, condition, label=None):
        return self.layers(torch.cat([x_t, repeat_for_samples(condition.features[0], len(x_t))], 1))


class OwnLoss(DiffusionLoss):
    def __init__(self, factor: float = 2.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def forward(self, *args):
        return self.factor * super().forward(*args)


class Highest(Fusion):
    def __call__(self, samples, weights=None):
        return samples.amax(1)


class OwnSGD(torch.optim.SGD):
    pass


class OwnData(SegmentationDataModule):
    info = replace(SyntheticDataModule.info, name="own", title="Own data", raters=1)

    def __init__(self, images: int = 6, **kwargs) -> None:
        super().__init__(**kwargs)
        self.images = images

    def load(self, split):
        return SyntheticStore(split, self.images, self.image_size, 1, False)


def run():
    raise AssertionError("nobody may call this")


Path(__file__).with_name("imported").touch()
"""

RUN = """
experiment: own
trainer: {max_steps: 2, accelerator: cpu, log_every_n_steps: 1}
model:
  class_path: diffmedseg.models.MedSegDiffSegmenter
  init_args:
    denoiser: {class_path: ownseg.OwnNet, init_args: {width: 4}}
    loss: {class_path: ownseg.OwnLoss, init_args: {factor: 3.0, dice: 1.0}}
    fusion: {class_path: ownseg.Highest}
    optimizer: {class_path: ownseg.OwnSGD, init_args: {lr: 0.125}}
    num_samples: 2
    num_steps: 2
    val_num_steps: 1
data:
  class_path: ownseg.OwnData
  init_args: {image_size: 16, batch_size: 2, steps_per_epoch: 1, patch: null}
"""
IMAGE = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
REMEDY = r"(OwnNet|OwnLoss|Highest).*package ownseg, which is not trusted.*--trust ownseg, or trust=\['ownseg'\]"


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownseg"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The package's folder, the folder of its run, and what the run said."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "lib" / "ownseg").mkdir(parents=True)
    (folder / "lib" / "ownseg" / "__init__.py").write_text(PACKAGE)
    (folder / "own.yaml").write_text(RUN)
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    with pytest.MonkeyPatch.context() as patch, kept_process_state():
        patch.syspath_prepend(folder / "lib")
        logging.getLogger("diffmedseg").addHandler(handler)
        files = [f"-c={EXPERIMENTS / 'base.yaml'}", f"-c={folder / 'own.yaml'}"]
        main(["fit", *files, f"--runs={folder / 'runs'}"])
        logging.getLogger("diffmedseg").removeHandler(handler)
    forget()
    return folder / "lib", folder / "runs" / "own" / "version_0", records


@pytest.fixture
def package(trained, monkeypatch):
    """The package, installed and not imported yet."""
    forget()
    monkeypatch.syspath_prepend(trained[0])
    (trained[0] / "ownseg" / "imported").unlink(missing_ok=True)
    yield trained[0] / "ownseg"
    forget()


@pytest.fixture
def own_run(trained, tmp_path):
    """A copy: some tests calibrate it."""
    return shutil.copytree(trained[1], tmp_path / "own_run")


def untouched(package):
    return "ownseg" not in sys.modules and not (package / "imported").exists()


def test_what_loading_takes_is_said_when_training_starts(trained):
    [said] = [text for text in trained[2] if "--trust" in text]
    assert said == "To load the checkpoints of this run: --trust ownseg, or trust=['ownseg'] in Python."


def test_without_trust_it_is_refused_before_anything_is_imported(package, own_run, tmp_path):
    with pytest.raises(ZooError, match=REMEDY):
        load_checkpoint(own_run)
    with pytest.raises(ZooError, match=REMEDY):
        load_checkpoint(own_run, trust=["other", "own"])
    with pytest.raises(ZooError, match=REMEDY):
        MedSegDiffSegmenter.load_from_checkpoint(own_run / "checkpoints" / "best.ckpt")
    config = yaml.safe_load((own_run / "config.yaml").read_text())["data"]
    for named in (config, {"class_path": "diffmedseg.data.SyntheticDataModule",
                           "init_args": {"label_recipe": "ownseg.OwnData"}}):  # fmt: skip
        with pytest.raises(DataError, match=r"ownseg\.OwnData.*not trusted.*--trust ownseg"):
            build_data(named)
    with pytest.raises(SystemExit, match="--trust ownseg"):
        main(["calibrate", str(own_run)])
    with pytest.raises(ZooError, match="--trust ownseg"):
        zoo.export(own_run, "own_own.test", tmp_path / "zoo")
    assert untouched(package)


def test_with_trust_it_loads_as_it_was_trained(package, own_run):
    model = load_checkpoint(own_run, trust=["ownseg"])
    assert (package / "imported").exists()
    assert (type(model.denoiser).__name__, type(model.fusion).__name__) == ("OwnNet", "Highest")
    assert (model.loss.factor, model.loss.dice) == (3.0, 1.0)
    result = model.segment(IMAGE, 3)
    torch.testing.assert_close(
        result.probability, torch.nn.functional.interpolate(result.samples.amax(1), (20, 24), mode="bilinear")
    )
    optimizer = model.optimizer(model.parameters())
    assert (type(optimizer).__name__, optimizer.defaults["lr"]) == ("OwnSGD", 0.125)
    again = MedSegDiffSegmenter.load_from_checkpoint(own_run / "checkpoints" / "best.ckpt", trust="ownseg", num_steps=1)
    assert again.num_steps == again.hparams["num_steps"] == 1
    assert torch.equal(again.segment(IMAGE, num_steps=2).samples, model.segment(IMAGE).samples)


def test_it_predicts_calibrates_and_exports(package, own_run, tmp_path, monkeypatch):
    picture = tmp_path / "a.png"
    Image.new("RGB", (24, 20), (90, 60, 50)).save(picture)
    command = ["predict", str(own_run), str(picture), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="--trust ownseg"):
        main(command)
    assert untouched(package)
    main([*command, "--trust", "ownseg"])
    assert (tmp_path / "out" / "a_mask.png").is_file()
    main(["calibrate", str(own_run), "--trust", "ownseg"])
    assert load_checkpoint(own_run, ["ownseg"]).calibration is not None
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    main(["zoo", "export", str(own_run), "--name", "own_own.test", "--dtype", "float32", "--trust", "ownseg"])
    assert zoo.current_source().entries()["own_own.test"].packages == ["ownseg"]
    assert "trust=['ownseg']" in (tmp_path / "zoo" / "own_own.test" / "README.md").read_text()
    assert verify_entry(zoo.current_source(), "own_own.test", trust=["ownseg"]) < 1e-3
    model = load_pretrained("own_own.test", trust=["ownseg"])
    assert torch.equal(
        model.segment(IMAGE).probability, load_checkpoint(own_run, ["ownseg"]).segment(IMAGE).probability
    )
    forget()
    (package / "imported").unlink()
    with pytest.raises(ZooError, match=REMEDY):
        load_pretrained("own_own.test")
    assert untouched(package)


def test_a_package_that_is_not_there_is_named(own_run):
    forget()
    with pytest.raises(ZooError, match=r"cannot be imported.*install the package ownseg"):
        load_checkpoint(own_run, trust=["ownseg"])


def test_an_optimiser_never_hinders_loading_and_refuses_to_train(package, own_run):
    """That of a package that is not trusted, is not there, or has no such class."""
    hparams = torch.load(own_run / "checkpoints" / "best.ckpt", weights_only=True)["hyper_parameters"]
    stored = {**hparams, **{name: to_config(MedSegDiffSegmenter(MedSegDiffLite(3, 1)))["init_args"][name]
                            for name in ("denoiser", "loss", "fusion")}}  # fmt: skip
    for path, trust in (("ownseg.OwnSGD", []), ("nowhere.Adam", ["nowhere"]), ("os.system", ["os"])):
        stored["optimizer"]["class_path"] = path
        model = build(checkpoint_config({"hyper_parameters": stored}), trust)
        assert model.segment(IMAGE, 1, 1).mask.shape == (1, 1, 20, 24)
        with pytest.raises(ZooError, match=rf"{path}.*optimizer=torch\.optim\.AdamW"):
            model.optimizer(model.parameters())
    assert untouched(package)


@pytest.mark.parametrize(
    "path",
    ["os.system", "builtins.dict", "subprocess.Popen", "ownseg.run", "ownseg.Popen", "ownseg.Path", "ownseg.nothing",
     "diffmedseg.zoo.export", "torch.nn.Linear", "numpy.ndarray", "ownseg", "", "ownseg."],
)  # fmt: skip
def test_trust_opens_nothing_but_parts_of_models_in_that_package(path, package):
    with pytest.raises(ZooError):
        build({"class_path": path, "init_args": {}}, trust=["ownseg", "os", "builtins", "subprocess"])


@pytest.mark.parametrize("name", ["ownseg.nets", "own-seg", "", "own/seg"])
def test_trust_takes_names_of_packages(name, own_run):
    with pytest.raises(ZooError, match="not the name of a top-level package"):
        load_checkpoint(own_run, trust=[name])


def test_an_installed_plug_in_is_trusted(package, own_run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    info = tmp_path / "ownseg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ownseg\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[diffmedseg.plugins]\nanything = ownseg\n")
    assert trusted_packages() >= {"ownseg"}
    assert untouched(package)
    assert type(load_checkpoint(own_run).denoiser).__name__ == "OwnNet"


def test_the_data_of_a_plug_in_is_ours_in_all_else(package, own_run):
    config = yaml.safe_load((own_run / "config.yaml").read_text())["data"]
    data = build_data(config, trust=["ownseg"])
    data.setup("test")
    assert isinstance(data.stores["test"], SyntheticStore)
    assert data.image_size == (16, 16)
