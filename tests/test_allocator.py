import subprocess
import sys

import pytest

_FAULTS = """
import resource
import sys
import torch
from diffmedseg.allocator import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no glibc")
faults = []
for turn in range(32):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)  # 128 MiB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[-5:]))  # at first memory is new in any case, until no small block lies in the way any more
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_used_again():
    """Not given back to the kernel, which would hand it out again page by page."""
    faults = {}
    for mode in ("as it is", "keep"):
        done = subprocess.run([sys.executable, "-c", _FAULTS, mode], capture_output=True, text=True, check=False)
        if "no glibc" in done.stderr:
            pytest.skip("no glibc")
        faults[mode] = int(done.stdout)
    assert faults["keep"] < faults["as it is"] / 10


def test_nothing_happens_elsewhere(monkeypatch):
    from diffmedseg import allocator

    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    assert not allocator.keep_freed_memory()
