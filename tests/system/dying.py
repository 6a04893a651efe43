"""Saves that die at a file operation: `python dying.py BEFORE WORK STRIDE`.

Each begins on a copy of the folder BEFORE, in WORK, and is forked from this one process, since
importing takes seconds. Prints a JSON object for each: its folder, what it died at, its exit code.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import optax

from lmjax.learning.step import TrainState, init_state
from lmjax.runtime import checkpoint

STEP, KEEP = 15, 1
CHANGES = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")


def state(step: int) -> TrainState:
    params = {"w": np.random.default_rng(step).normal(size=(16, 16)).astype(np.float32)}
    return init_state(params, optax.trace(0.9))._replace(step=np.int32(step))


def save(folder: Path, step: int) -> None:
    """As a run does it, and as a run removes what it no longer keeps."""
    checkpoint.save(folder, state(step), {"step": step, "val_loss": None})
    checkpoint.clean(folder, step, KEEP, best_of="val_loss")


def operations_until(folder: Path, last: int) -> list[str]:
    """What this process does to files in a folder from now on; it dies at the last."""
    done: list[str] = []

    def audit(event: str, arguments: tuple) -> None:
        # Opened for reading is nothing, opened without a mode is to be forced to disk.
        if event not in CHANGES or (event == "open" and arguments[1] in ("r", "rb")):
            return
        path = str(arguments[0])
        if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), path)
        if path.startswith(str(folder)):
            done.append(f"{event} {os.path.relpath(path, folder)}")
            if len(done) == last:
                os._exit(137)

    sys.addaudithook(audit)
    return done


def main(before: Path, work: Path, stride: int) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    at, code = 0, 137
    while code == 137:
        at += stride
        folder = shutil.copytree(before, work / str(at), symlinks=True)
        child = os.fork()
        if child == 0:
            operations_until(folder, at)
            save(folder, STEP)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"folder": str(folder), "code": code}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
