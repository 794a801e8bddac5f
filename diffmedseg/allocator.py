"""Keep freed memory for the next network pass instead of returning it to the system."""

import ctypes
import sys

# malloc.h of glibc; mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the rest of the process.

    By default glibc maps large blocks and unmaps them when they are freed, so the kernel clears the same gigabytes at
    each layer. This takes half of the time of sampling large images on a CPU (docs/results/speed.md, "Scaling"). The
    command line calls this function. Libraries should not: the memory of the whole process no longer shrinks.

    Returns:
        Whether the allocator is glibc's. On macOS, Windows and musl nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
