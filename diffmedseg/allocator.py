"""Keeping freed memory for the next network pass, instead of handing it back to the system."""

import ctypes
import sys

# malloc.h of glibc; mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed, for the rest of the process.

    By default it maps large blocks anew and unmaps them when they are freed, so that the kernel clears the same
    gigabytes again at each layer: half the time of sampling large images on a CPU (docs/results/speed.md,
    "Scaling"). The command line calls this. Libraries should leave it to their users: it concerns all of the process,
    whose memory no longer shrinks.

    Returns:
        Whether there is such an allocator: not on macOS, Windows or musl, where nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
