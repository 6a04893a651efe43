"""Memory: this process keeps what it freed; a run that has too little says what to do."""

import ctypes
import gc
import os
import resource
from pathlib import Path

from lmjax.config import Config, TransformerConfig

# Of glibc's malloc.h and Linux's mman.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_MADV_HUGEPAGE = 14


def keep() -> None:
    """Let each step on a CPU have the memory of the step before, and Python collect it rarely.

    The C library, where it is glibc, gives large arrays back to the system otherwise: to have their
    pages mapped anew took a sixth of a step of 12M parameters (two cores, 2026-11-27). Where
    addresses are not limited, as many as half of the machine's memory has are reserved, so that
    Linux gives large pages to what is taken of them: up to 1.04 of the speed (2026-11-28). 124M
    parameters write 1.12 times as fast, with their weights in such pages (2026-11-29). To be called
    before there are threads: each would have an arena of its own, and those cannot grow so far.

    Python looks for cycles to free a few times in a start, not hundreds of times: what is imported
    and traced stays, and to look at it again and again took a seventh of the time to the first step
    (quickstart, two cores, 2026-11-28).
    """
    gc.set_threshold(200_000)
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
        library.mallopt(option, value)
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    page = os.sysconf("SC_PAGE_SIZE")
    reserved = os.sysconf("SC_PHYS_PAGES") // 2 * page
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = library.malloc(reserved)
    if start is not None:
        library.madvise(-(-start // page) * page, reserved - page, _MADV_HUGEPAGE)
        library.free(start)


class TooLarge(RuntimeError):
    """The device has too little memory for the run: it would be so again. Exit code 70."""


class RanOut(RuntimeError):
    """The device had too little memory for a run that had fit before. Exit code 75."""


def is_used_up(error: Exception) -> bool:
    """Whether this is how JAX says that a device has no memory left."""
    return "RESOURCE_EXHAUSTED" in str(error)


def explained(run: Path, config: Config, error: Exception, fitted: bool) -> TooLarge | RanOut:
    """What to do about it, as an error; `fitted` says whether an update was ever made."""
    batch, words, keys = config.batch, [], ["batch.micro_rows"]
    now = f"batch.micro_rows is {batch.micro_rows or f'all {batch.rows}'}"
    smaller = batch.micro_rows // 2 if isinstance(batch.micro_rows, int) else batch.rows // 2
    words.append(f"--batch.micro-rows {max(1, smaller)}")
    if isinstance(config.model, TransformerConfig) and config.model.remat != "full":
        now += f", model.remat {config.model.remat}"
        words.append("--model.remat full")
        keys.append("model.remat")
    less = f"{' '.join(words)} --allow-drift {' '.join(keys)}"
    what = f"{run}: the device has no memory left: {str(error).splitlines()[0]}\n"
    if not fitted:
        return TooLarge(
            f"{what}No update of this run has fit yet. {now}: start it with less at a time, "
            f"{less}, or with a smaller model; python -m lmjax.plan says what fits"
        )
    return RanOut(
        f"{what}It had fit before; what was saved is whole. Run me again once nothing else uses "
        f"the device; if that does not help, with less at a time ({now}): {less}"
    )
