import copy
import functools
import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import nn

from diffmedseg.configurable import UNRECORDED, Configurable, public_path, to_config, unrecorded
from diffmedseg.data.catalogue import configured
from diffmedseg.diffusion import DiffusionLoss, NoiseProcess, ReverseProcess
from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter
from diffmedseg.postprocessing.crf import CRFSettings, DenseCRF, RandomSubsetCRF
from diffmedseg.postprocessing.fusion import MeanFusion
from diffmedseg.postprocessing.refinement import LargestComponent
from diffmedseg.zoo import allowed_classes, build


class Base(Configurable):
    def __init__(self, a: int, b: float = 0.5) -> None:
        self.a, self.b = a, b


class Middle(Base):
    def __init__(self, *, c: str = "c", **kwargs) -> None:
        super().__init__(**kwargs)
        self.c = c


class Last(Middle):
    def __init__(self, d: Base | None = None, b: float = 2.0, **kwargs) -> None:
        super().__init__(b=b, **kwargs)
        self.d = d


class Positional(Configurable):
    def __init__(self, *parts) -> None:
        self.parts = parts


class Part(Configurable, nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)


@dataclass(frozen=True)
class Frozen(Configurable):
    x: int
    y: tuple[int, ...] = (1, 2)


def arguments(thing):
    return to_config(thing)["init_args"]


def test_arguments_are_gathered_over_all_constructors_that_pass_them_on():
    assert arguments(Last(Base(1), a=7)) == {
        "d": {"class_path": public_path(Base), "init_args": {"a": 1, "b": 0.5}}, "b": 2.0, "c": "c", "a": 7
    }  # fmt: skip
    assert arguments(Middle(a=1, b=3))["b"] == 3


def test_a_wrong_argument_is_refused_by_the_constructor_itself():
    with pytest.raises(TypeError, match="takes no arguments"):
        MeanFusion(samples=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        Last(a=1, z=2)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        Last()


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
@pytest.mark.parametrize(
    "make", [lambda: Last(a=7), lambda: Part(5), lambda: Frozen(4)], ids=["plain", "module", "frozen"]
)
def test_copies_and_pickles_know_their_arguments(make, again):
    thing = make()
    assert to_config(again(thing)) == to_config(thing)


def test_what_happens_to_an_argument_afterwards_changes_nothing():
    given = [1, 2]
    thing = Frozen(1, given)
    given.append(3)
    assert arguments(thing)["y"] == [1, 2]


def test_values_become_plain():
    stored = arguments(Base(np.float64(0.25), {"path": Path("a/b"), 3: np.int64(4), "t": (1, None, True)}))
    assert stored == {"a": 0.25, "b": {"path": "a/b", "3": 4, "t": [1, None, True]}}
    assert type(stored["a"]) is float
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == stored


def test_what_cannot_be_written_down_is_named_by_its_place():
    stored = to_config(Last(Base(lambda: 0), a=[nn.ReLU()]))
    said = unrecorded(stored)
    assert said["a[0]"] == "an object of torch.nn.ReLU"
    assert said["d.a"].endswith("<lambda>")
    assert len(said) == 2
    assert UNRECORDED in stored["init_args"]["a"][0]
    with pytest.raises(TypeError, match="ReLU does not record its arguments"):
        to_config(nn.ReLU())
    with pytest.raises(TypeError, match="Positional does not record"):
        to_config(Positional(1, 2))


def test_the_public_path_is_what_the_package_exports():
    assert public_path(MedSegDiffLite) == "diffmedseg.models.MedSegDiffLite"
    assert public_path(NoiseProcess) == "diffmedseg.diffusion.NoiseProcess"
    assert public_path(torch.optim.AdamW) == "torch.optim.AdamW"
    assert public_path(DPMSolverMultistepScheduler) == "diffusers.DPMSolverMultistepScheduler"


@pytest.mark.parametrize("make", [torch.optim.SGD, functools.partial(torch.optim.SGD, lr=0.5, momentum=0.1)])
def test_optimisers_are_classes_or_partials_of_them(make):
    again = build(to_config(make))([nn.Parameter(torch.zeros(1))])
    assert isinstance(again, torch.optim.SGD)
    assert again.defaults["momentum"] == getattr(make, "keywords", {}).get("momentum", 0)


def test_nested_parts_come_back_equal():
    reverse = ReverseProcess(DPMSolverMultistepScheduler(solver_order=3), eta=0.5, spacing=1.5)
    first = RandomSubsetCRF(rounds=2, settings=CRFSettings(longest=64))
    for thing in (reverse, LargestComponent(first), DenseCRF(), DiffusionLoss(mse=1.0, bce=0.0)):
        again = build(json.loads(json.dumps(to_config(thing))))
        assert type(again) is type(thing)
        assert to_config(again) == to_config(thing)
    assert build(to_config(reverse)).scheduler.config.solver_order == 3
    by_name = {"scheduler": {"class_path": "diffusers.DDPMScheduler"}}
    again = build({"class_path": "diffmedseg.diffusion.ReverseProcess", "init_args": by_name})
    assert type(again.scheduler).__name__ == "DDPMScheduler"
    assert build(to_config(LargestComponent(first))).first.settings == first.settings


def test_every_part_of_a_model_may_be_named_and_nothing_abstract():
    allowed = allowed_classes()
    for path in (
        "diffmedseg.models.MedSegDiffSegmenter", "diffmedseg.models.SMPNetwork", "diffmedseg.models.TwoTowerUNet",
        "diffmedseg.models.diffseg.decision.Otsu", "diffmedseg.models.diffseg.difference.ReleasedDifference",
        "diffmedseg.postprocessing.LargestComponent", "diffmedseg.postprocessing.IsotonicCalibration",
        "diffmedseg.postprocessing.Conformal", "diffmedseg.postprocessing.STAPLEFusion",
        "diffmedseg.diffusion.PriorLoss", "diffusers.DDPMScheduler", "torch.optim.AdamW", "torch.optim.RMSprop",
    ):  # fmt: skip
        assert path in allowed
    assert "diffmedseg.models.Denoiser" not in allowed
    assert "torch.optim.Optimizer" not in allowed
    assert all(path.split(".")[0] in {"diffmedseg", "diffusers", "torch"} for path in allowed)


def test_what_none_meant_in_older_configs_it_means_still():
    """A checkpoint that was trained at the noise of the process's own defaults must not be sampled at another."""
    stored = to_config(MedSegDiffSegmenter(MedSegDiffLite(3, 1)))
    stored["init_args"] |= {"process": None, "loss": None, "refinement": None}
    again = build(stored)
    assert to_config(again.process) == to_config(NoiseProcess())
    assert to_config(again.loss) == to_config(DiffusionLoss())
    assert again.refinement is None


DATA = sorted(path.stem for path in (Path(__file__).parents[1] / "experiments" / "data").glob("*.yaml"))


@pytest.mark.parametrize("name", DATA)
def test_every_data_set_takes_what_the_base_takes_and_checks_its_type(name, tmp_path):
    assert configured(name, tmp_path, {"patch": "16"}).patch == 16
    with pytest.raises(Exception, match="patch"):
        configured(name, tmp_path, {"patch": "wide"})
    with pytest.raises(Exception, match="pach"):
        configured(name, tmp_path, {"pach": "16"})
