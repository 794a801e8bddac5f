"""How much memory the samples of a volume take."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from peak_memory import FEW, MANY, SHAPE

TESTS = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is in other units")
@pytest.mark.parametrize("axes", ["axial", "axial,sagittal"])
def test_samples_are_not_kept_at_the_size_of_the_volume(axes):
    """They wait on the model's grid: 32 more samples of a byte per voxel would take 128 MiB."""
    paths = os.pathsep.join([str(TESTS), *sys.path])
    script = Path(__file__).with_name("peak_memory.py")
    ended = subprocess.run(
        [sys.executable, str(script), axes], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    kept = (MANY - FEW) * math.prod(SHAPE) / 2**20
    assert float(ended.stdout) < kept / 2
