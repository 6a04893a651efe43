"""How this process treats memory that was freed."""

import ctypes

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep() -> None:
    """Let each step on a CPU have the memory of the step before, where the C library is glibc.

    It gives large arrays back to the system otherwise: to have their pages mapped anew took a sixth
    of a step of 12M parameters (two cores, 2026-11-27). To be called before there are threads: each
    would have an arena of its own, and those cannot grow so far.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
            mallopt(option, value)
