"""How much memory a volume takes."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from peak_memory import FEW, MANY, SHAPE

TESTS = Path(__file__).parents[2]


def printed_by(script, *args):
    """Run a script of this folder, and return the number that it prints."""
    # By default glibc keeps blocks of up to 32 MB that were freed.
    environment = {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "MALLOC_MMAP_THRESHOLD_": "1000000"}
    command = [sys.executable, str(Path(__file__).with_name(script)), *args]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return float(ended.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is in other units")
def test_samples_are_not_kept_at_the_size_of_the_volume():
    """They wait on the model's grid: 32 more samples of a byte per voxel would take 128 MiB."""
    kept = (MANY - FEW) * math.prod(SHAPE) / 2**20
    assert printed_by("peak_memory.py", "axial,sagittal") < kept / 2


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is in other units")
@pytest.mark.parametrize(("axes", "most"), [("axial", 28), ("axial,sagittal", 46)])
def test_a_volume_takes_few_bytes_per_voxel(axes, most, tmp_path):
    """Two channels and three regions as float32, with masks and normalised channels, take 43 and more.

    Several axes need the sums of two maps as float32.
    """
    assert printed_by("peak_of_predict.py", str(tmp_path), axes) < most
