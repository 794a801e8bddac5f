import subprocess
import sys

import pytest
import torch

from diffmedseg.data import SyntheticDataModule
from diffmedseg.export.arrays import CALIBRATIONS
from diffmedseg.moved import MOVED
from diffmedseg.postprocessing import IsotonicCalibration
from diffmedseg.zoo import allowed_classes, build

ISOTONIC = {"probability": [0.0, 1.0], "frequency": [0.25, 0.75]}


def test_old_names_work_and_say_the_new_ones_once():
    script = "from importlib import import_module\n"
    for old, new in MOVED.items():
        script += f"from {old} import *\nold, new = import_module({old!r}), import_module({new!r})\n"
        script += "assert all(vars(old)[name] is value for name, value in vars(new).items() if name[:2] != '__')\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("FutureWarning") == len(MOVED)
    assert all(f"{old} is now {new}" in done.stderr for old, new in MOVED.items())


def test_stored_configs_may_name_classes_by_their_old_names():
    old, new = f"diffmedseg.calibration.{IsotonicCalibration.__name__}", "diffmedseg.postprocessing.IsotonicCalibration"
    assert build({"class_path": old, "init_args": ISOTONIC})(torch.tensor([0.5])).item() == 0.5
    assert allowed_classes()[old] is allowed_classes()[new] is IsotonicCalibration
    assert "diffmedseg.crf.CRFSettings" in allowed_classes()  # as 0.1 wrote them
    assert CALIBRATIONS[old] is CALIBRATIONS[new]


def test_old_names_of_methods_and_properties_warn():
    data = SyntheticDataModule()
    with pytest.warns(FutureWarning, match="serve is now configure_targets"):
        assert data.serve == data.configure_targets
    with pytest.warns(FutureWarning, match="doubts is now find_warnings"):
        assert data.doubts() == []
    with pytest.warns(FutureWarning, match="may_be_shown is now redistributable"):
        assert data.info.may_be_shown is data.info.redistributable


def test_other_names_are_missing_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"diffmedseg\.fusions"):
        __import__("diffmedseg.fusions")
