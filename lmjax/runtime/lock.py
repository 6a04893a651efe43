"""One writer per run folder: a file lock that the kernel drops when its holder dies."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CODE = 73


class Locked(RuntimeError):
    """Another process writes in this run folder, or it cannot be written at all. Exit code 73."""


@contextlib.contextmanager
def hold(run: Path) -> Iterator[Callable[[], bool]]:
    """Hold the run folder's lock; raises Locked at once, naming who holds it.

    Gives a function that says whether the folder is still there, and still ours. Whatever fails
    because it is not, is raised as Locked.
    """
    path = run / "lock"
    try:
        run.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+")
    except OSError as error:
        raise Locked(
            f"{run}: expected a folder that can be written, found: {error.strerror}; "
            "make room or give it back its permissions, or choose another folder with --run"
        ) from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Locked(
                f"{run}: already being written by {file.read().strip() or 'another process'}; "
                "wait for it to end, or choose another folder with --run"
            ) from None
        file.truncate(0)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}
        file.write(json.dumps(holder))
        file.flush()

        def held() -> bool:
            try:
                return os.path.samestat(os.fstat(file.fileno()), path.stat())
            except (FileNotFoundError, NotADirectoryError):
                return False

        try:
            yield held
        except Exception as error:
            if held():
                raise
            raise Locked(gone(run)) from error


def gone(run: Path) -> str:
    """What to say of a folder that is no longer held."""
    return (
        f"{run}: removed or renamed while it was being written; what was not saved elsewhere is "
        "lost: put it back to go on from its checkpoints, or choose another folder with --run"
    )
