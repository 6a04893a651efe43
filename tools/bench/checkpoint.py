"""What a checkpoint costs: how long the loop waits, how long the writing takes, and the restore.

    python -m tools.bench.checkpoint --json

The state is GPT-2's (124M) with Adam's moments, 1.4 GiB of random numbers. The peer is
`numpy.savez` of the same arrays, without digests or fsync, and `numpy.load`; the restore is held
against it and against reading the files of the step, from the memory where the kernel keeps them
and, dropped from there, from the disk.
"""

import collections
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.table import Table

from lmjax.config import load_recipe
from lmjax.learning.step import TrainState
from lmjax.runtime import blueprint, checkpoint, console, device, memory
from lmjax.text.workers import cores

RECIPE = Path(__file__).parents[2] / "configs" / "gpt2.py"


def clock(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def read(files: list[Path]) -> None:
    """As fast as the machine can: several at a time, nothing kept."""

    def one(path: Path) -> None:
        buffer = bytearray(1 << 20)
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    with ThreadPoolExecutor(2 * cores()) as threads:
        list(threads.map(one, files))


def load(path: Path) -> list[np.ndarray]:
    """The arrays that `numpy.savez` wrote."""
    with np.load(path) as arrays:
        return [arrays[name] for name in arrays.files]


def forget(files: list[Path]) -> None:
    """Have the kernel drop its copies of files that are on the disk."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main(
    folder: Path | None = None,
    peer: Literal["savez"] = "savez",
    depth: int = 12,
    repeats: int = 3,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Save and restore under `folder` (none means that for temporary files), a few times."""
    memory.keep()  # as training does
    recipe = load_recipe(RECIPE, ["--model.depth", str(depth), "--model.attention", "xla"])
    drawn = blueprint.draw(recipe.config, recipe.make_optimizer, device.platform())
    shapes = drawn.shapes[0]
    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(shapes))))

    def random(shape: Any) -> Any:
        key = next(keys)
        if not jnp.issubdtype(shape.dtype, jnp.floating):
            return jnp.ones(shape.shape, shape.dtype)
        return jax.random.normal(key, shape.shape, shape.dtype)

    state: TrainState = jax.block_until_ready(jax.tree.map(random, shapes))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    found: dict[str, list[float]] = collections.defaultdict(list)
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory(dir=folder) as room:
            saver = checkpoint.Saver(Path(room), keep=2)
            begun = time.perf_counter()
            saver.save(state, {"step": repeat})
            found["blocked"].append(time.perf_counter() - begun)
            saver.wait()
            found["written and sealed"].append(time.perf_counter() - begun)
            saved = Path(room) / str(int(state.step))

            def restore(saved: Path = saved) -> None:
                checkpoint.verify(saved)
                jax.block_until_ready(checkpoint.restore(saved / "params", shapes.params))
                jax.block_until_ready(checkpoint.restore(saved / "rest", checkpoint.rest(shapes)))

            arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
            theirs = Path(room) / "peer.npz"
            found[peer].append(clock(functools.partial(np.savez, theirs, *arrays)))
            with theirs.open("rb") as written:
                os.fsync(written.fileno())  # what is not on the disk would not be dropped

            files = [path for path in saved.rglob("*") if path.is_file()]
            runs: dict[str, Callable[[], Any]] = {
                "verified and restored": restore,
                "verified": functools.partial(checkpoint.verify, saved),
                "files read": functools.partial(read, files),
                f"{peer} restored": functools.partial(load, theirs),
            }
            for name, run in runs.items():
                found[name].append(clock(run))
                forget([*files, theirs])
                found[f"{name} from disk"].append(clock(run))
    table = Table(f"{size / 2**30:.2f} GiB", "s", "GiB/s")
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        table.add_row(name, f"{middle:.3f}", f"{size / 2**30 / middle:.2f}")
    console.terminal.print(table)
    ratios = [a / b for a, b in zip(found[peer], found["blocked"], strict=True)]
    console.say(f"a loop that waits for {peer} waits {statistics.median(ratios):.1f} times as long")
    if as_json:
        facts = {"ratio": statistics.median(ratios), "ratios": ratios, "bytes": size}
        print(json.dumps({"peer": peer, **facts, "seconds": found}))


if __name__ == "__main__":
    tyro.cli(main)
