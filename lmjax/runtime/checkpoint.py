"""Checkpoints: written by Orbax, sealed by us.

`checkpoints/<step>/` holds `params/` and `rest/` (optimizer state, history of the newest updates)
as Orbax items, `evaluated/` where the optimizer evaluates other parameters than it trains,
`numbers.json`, and `seal.json`: the SHA-256 of every file, written last. A folder is filled beside
its place, forced to disk and renamed, so a step exists if and only if its seal verifies. Orbax
alone guards neither array data nor JSON: one flipped bit restores silently wrong.
"""

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from lmjax.learning.step import TrainState
from lmjax.runtime import processes
from lmjax.text import digests, json_file
from lmjax.text.errors import DataError

# Orbax logs each error of its threads, a page of stacks, besides raising it to whoever waits.
logging.getLogger("absl").addFilter(lambda record: "_SignalingThread" not in str(record.msg))

FORMAT = 2
"""Of what is saved and its seal. 2: the history of the newest updates, in `rest`."""

CHUNK_BYTES, FILE_BYTES = 16 << 20, 64 << 20
"""Of an array written as one, and, about, of a file: several cores write, read and digest them."""


class Saved(NamedTuple):
    """A checkpoint whose seal has been verified."""

    step: int
    folder: Path
    numbers: dict[str, Any]


def steps(folder: Path) -> list[int]:
    """The steps that have a folder, newest first; says nothing of their seals."""
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if p.name.isdecimal() and p.is_dir())
    return sorted((int(p.name) for p in found), reverse=True)


def verify(folder: Path) -> Saved:
    """Read a step's seal and hold every file against it.

    Raises DataError naming the file, the digest expected and the one found.
    """
    try:
        seal = json_file.read(folder / "seal.json")
        expected = dict(seal["files"])
        if seal["format"] != FORMAT:
            raise ValueError(
                f"format: expected {FORMAT}, found {seal['format']!r}; sealed by another lmjax, "
                "which alone can use it"
            )
    except (DataError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: expected a sealed checkpoint, its seal.json: {error}") from None
    found = {_name(folder, path) for path in _files(folder)} - {"seal.json"}
    for name in sorted(found ^ set(expected)):
        problem = "missing" if name in expected else "not in the seal"
        raise DataError(f"{folder / name}: {problem}; this checkpoint cannot be used")
    digests.check(
        {folder / name: digest for name, digest in expected.items()},
        "this checkpoint cannot be used",
    )
    return Saved(int(folder.name), folder, numbers(folder))


def numbers(folder: Path) -> dict[str, Any]:
    """What a step's folder says of the run, its seal not looked at. Raises DataError."""
    found: dict[str, Any] = json_file.read(folder / "numbers.json")
    return found


def newest(folder: Path) -> tuple[Saved | None, list[str]]:
    """The newest step that verifies, and why newer ones were rejected.

    Raises DataError if there are steps and none verifies.
    """
    rejected: list[str] = []
    for step in steps(folder):
        try:
            return verify(folder / str(step)), rejected
        except DataError as error:
            rejected.append(str(error))
    if rejected:
        reasons = "\n  ".join(rejected)
        raise DataError(
            f"{folder}: no checkpoint can be used; nothing was deleted\n  {reasons}\n"
            "Restore one from a copy, or start another run with --run"
        )
    return None, []


def restore(item: Path, abstract: Any) -> Any:
    """Read one item into the structure, shapes and dtypes of `abstract`.

    As numpy arrays, or where `abstract` says where they lie, on those devices: each reads its part.
    Raises DataError if what was saved differs from it.
    """
    arguments = ocp.args.PyTreeRestore(
        item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)
    )
    with _checkpointer({jax.process_index()}) as checkpointer:
        expected = _shapes(abstract)
        found = checkpointer.metadata(item.absolute()).item_metadata
        if found is None:
            raise DataError(f"{item}: expected what Orbax has saved, found nothing of it")
        saved = _shapes(found.tree)
        for name in sorted(set(expected) | set(saved)):
            if expected.get(name) != saved.get(name):
                raise DataError(
                    f"{item}: {name}: expected {expected.get(name, 'nothing')}, "
                    f"found {saved.get(name, 'nothing')}; the model or the optimizer has changed"
                )
        return checkpointer.restore(item.absolute(), args=arguments)


def rest(state: TrainState) -> dict[str, Any]:
    """What an item beside the parameters holds, all that a run needs to go on."""
    return {"opt_state": state.opt_state, "history": state.history}


def save(
    folder: Path, state: TrainState, numbers: dict[str, Any], evaluated: Any | None = None
) -> Path:
    """Write and seal a step. `state` holds host arrays. Returns its folder.

    `evaluated` are the parameters of the finished model, where they are not `state.params`.
    Of several processes each writes its part of the arrays, and the first all else; each must call.
    """
    folder = folder.absolute()  # Orbax takes no other
    final = folder / str(int(state.step))
    side = folder / f".saving-{final.name}"
    first = jax.process_index() == 0
    if first:
        shutil.rmtree(side, ignore_errors=True)
        folder.mkdir(exist_ok=True)  # without parents: a run that was removed does not come back
        side.mkdir()
        begun = side.stat()
    processes.meet(f"checkpoint begun {final.name}")
    with _checkpointer(set(range(jax.process_count()))) as checkpointer:
        items = {"params": state.params, "rest": rest(state)}
        if evaluated is not None:
            items["evaluated"] = evaluated
        for name, tree in items.items():
            chunked = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), tree)
            arguments = ocp.args.PyTreeSave(tree, chunked, ocdbt_target_data_file_size=FILE_BYTES)
            checkpointer.save(side / name, args=arguments)
    processes.meet(f"checkpoint written {final.name}")
    if first:
        if not os.path.samestat(begun, side.stat()):  # Orbax made it, and the run's, anew
            raise FileNotFoundError(f"{folder}: removed or renamed while a step was saved")
        _seal(side, final, numbers)
    processes.meet(f"checkpoint sealed {final.name}")
    return final


def _seal(side: Path, final: Path, numbers: dict[str, Any]) -> None:
    (side / "numbers.json").write_text(json.dumps(numbers))
    found = {_name(side, path): digest for path, digest in digests.sha256(_files(side)).items()}
    seal = {"format": FORMAT, "files": found}
    (side / "seal.json").write_text(json.dumps(seal, indent=1))
    for path in [*_files(side), *(p for p in side.rglob("*") if p.is_dir()), side]:
        _force(path)
    discard(final)
    side.rename(final)
    _force(final.parent)


def clean(folder: Path, good: int, keep: int, best_of: str | None = None) -> None:
    """Remove what killed processes left, and all but the newest `keep` steps and the best one.

    The best is the one with the least `best_of` in its numbers. `good` is the newest step known to
    be whole: newer ones are damaged, so they neither count nor are touched.
    """
    for leftover in [*folder.glob(".saving-*"), *folder.glob(".trash-*")]:
        shutil.rmtree(leftover)
    found = [step for step in steps(folder) if step <= good]
    kept = set(found[:keep])
    scores = {step: _score(folder / str(step), best_of) for step in found}
    ranked = sorted((score, step) for step, score in scores.items() if score is not None)
    kept |= {step for _, step in ranked[:1]}
    for step in found:
        if step not in kept:
            discard(folder / str(step))


class SaveError(RuntimeError):
    """A checkpoint could not be written; earlier ones are untouched. Exit code 75."""


class Saver:
    """Saves in the background, one at a time; a save is waited for by the next alone."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self, state: TrainState, numbers: dict[str, Any], evaluated: Any | None = None
    ) -> None:
        """Begin to copy and to write the state. Raises SaveError if the save before failed."""
        self.wait()
        copies = _aside((state, evaluated))
        work = threading.Thread(target=self._work, args=(copies, numbers), daemon=True)
        self._thread = work
        self._thread.start()

    def wait(self) -> None:
        """Wait for the save under way, and raise SaveError if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise SaveError(
                f"{self.folder}: saving failed, earlier steps are whole: {error}"
            ) from error

    def close(self) -> None:
        """Wait for the save under way; whether it succeeded, the folder tells."""
        if self._thread is not None:
            self._thread.join()

    def _work(self, copies: Any, numbers: dict[str, Any]) -> None:
        try:
            host, evaluated = _arrived(copies)
            save(self.folder, host, numbers, evaluated)
            if jax.process_index() == 0:
                clean(self.folder, int(host.step), self.keep, best_of="val_loss")
        except BaseException as error:
            if jax.process_index() == 0:
                _remove_begun(self.folder)
            self._error = error


def _remove_begun(folder: Path) -> None:
    """Remove a save that failed: again and again for half a second, since threads of TensorStore
    that nobody can wait for write their parts, and folders for them, after the first has failed."""
    for _ in range(10):
        for begun in folder.glob(".saving-*"):
            shutil.rmtree(begun, ignore_errors=True)
        time.sleep(0.05)


@contextlib.contextmanager
def _checkpointer(processes: set[int]) -> Iterator[ocp.Checkpointer]:
    """Of these processes, which then wait for each other: not by their devices, which have work."""
    options = ocp.options.MultiprocessingOptions(
        primary_host=min(processes), active_processes=processes
    )
    # Floats hardly compress: zstd would make them 8% smaller and take three times as long to read.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=options)
    made = ocp.Checkpointer(handler, multiprocessing_options=options)
    with contextlib.closing(made) as checkpointer:
        yield checkpointer


def _aside(tree: Any) -> Any:
    """A copy of each array in host memory that no step donates; begun, not waited for.

    The device goes through its work in order, so a step that is called next and is given the same
    arrays waits for what it overwrites: the loop does not.
    """

    def copy(array: Any) -> Any:
        if isinstance(array, jax.Array):
            return jax.device_put(array, array.sharding.with_memory_kind("pinned_host"))
        return np.array(array, copy=True)

    return jax.tree.map(copy, tree)


def _arrived(tree: Any) -> Any:
    """What `_aside` has copied, waited for: as numpy arrays, or where other processes hold parts,
    our part."""

    def view(array: Any) -> Any:
        if isinstance(array, jax.Array) and not (
            array.is_fully_addressable or array.is_fully_replicated
        ):
            return array
        return np.asarray(array)

    return jax.tree.map(view, jax.block_until_ready(tree))


def _shapes(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_path(path): f"{np.dtype(leaf.dtype)}{list(leaf.shape)}" for path, leaf in leaves}


def _path(path: tuple[Any, ...]) -> str:
    return "/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _force(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _score(folder: Path, name: str | None) -> float | None:
    try:
        return numbers(folder).get(name or "")
    except DataError:
        return None


def discard(folder: Path) -> None:
    """Remove a step: renamed, then deleted, so that a kill in between leaves no half of it."""
    if folder.exists():
        trash = folder.with_name(f".trash-{folder.name}")
        shutil.rmtree(trash, ignore_errors=True)
        folder.rename(trash)
        shutil.rmtree(trash)
