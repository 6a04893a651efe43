"""Folders that appear whole or not at all."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lmjax.text.errors import DataError


@contextmanager
def partial(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes it at the end, and is gone after an error.

    What a killed process left is cleared: its lock went with it. Raises DataError if another
    process works on it, and when the disk is full.
    """
    folder = out.with_name(f".{out.name}.partial")
    with _locked(out.parent):
        folder.mkdir(exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise DataError(
                f"{out}: another process is preparing it; wait until it is done, then run again"
            ) from None
        for stale in folder.iterdir():
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    try:
        yield folder
        os.fsync(lock)
        with _locked(out.parent) as parent:
            os.rename(folder, out)
            os.fsync(parent)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DataError(f"{out.parent}: expected room on the disk, found it full") from None
        raise
    finally:
        os.close(lock)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    path.write_bytes(content)
    sync(path)


def sync(path: Path) -> None:
    """Wait until the disk has what was written to a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
