import subprocess
import sys

import pytest
import torch

from diffmedseg.export.arrays import CALIBRATIONS
from diffmedseg.moved import MOVED
from diffmedseg.postprocessing import IsotonicCalibration
from diffmedseg.zoo import allowed_classes, build

ISOTONIC = {"probability": [0.0, 1.0], "frequency": [0.25, 0.75]}


@pytest.mark.parametrize("old", MOVED)
def test_old_names_work_and_say_the_new_one_once(old):
    script = f"from {old} import *; import {old} as old, {MOVED[old]} as new; "
    script += "assert {n for n in vars(new) if n[:2] != '__'} == {n for n in vars(old) if n[:2] != '__'}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("FutureWarning") == 1
    assert f"{old} is now {MOVED[old]}" in done.stderr


def test_stored_configs_may_name_classes_by_their_old_names():
    old, new = f"diffmedseg.calibration.{IsotonicCalibration.__name__}", "diffmedseg.postprocessing.IsotonicCalibration"
    assert build({"class_path": old, "init_args": ISOTONIC})(torch.tensor([0.5])).item() == 0.5
    assert allowed_classes()[old] is allowed_classes()[new] is IsotonicCalibration
    assert "diffmedseg.crf.CRFSettings" in allowed_classes()  # as 0.1 wrote them
    assert CALIBRATIONS[old] is CALIBRATIONS[new]


def test_other_names_are_missing_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"diffmedseg\.fusions"):
        __import__("diffmedseg.fusions")
