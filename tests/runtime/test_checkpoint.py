"""Checkpoints come back bit for bit or not at all, and a failed save harms no other."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from lmjax.learning import spikes
from lmjax.learning.step import TrainState
from lmjax.runtime import checkpoint
from lmjax.text.errors import DataError

TX = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.partition(
        {"a": optax.inject_hyperparams(optax.adamw)(learning_rate=0.1), "b": optax.sgd(0.1, 0.9)},
        lambda params: {name: "a" if name == "embedding" else "b" for name in params},
    ),
)


def make_state(step: int) -> TrainState:
    random = np.random.default_rng(step)
    params: dict[str, Any] = {
        "embedding": random.normal(size=(64, 32)).astype(np.float32),
        "blocks": {"kernel": random.normal(size=(2, 8, 8)).astype(ml_dtypes.bfloat16)},
    }
    _, opt_state = TX.update(params, TX.init(params), params)
    return TrainState(jnp.int32(step), params, opt_state, spikes.none_yet())


def shapes(tree: Any) -> Any:
    return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Steps 5 and 10, sealed; not to be changed."""
    folder = tmp_path_factory.mktemp("sealed")
    for step in (5, 10):
        host = jax.tree.map(np.asarray, make_state(step))
        checkpoint.save(folder, host, {"step": step, "val_loss": None})
    return folder


@pytest.fixture
def folder(two_steps, tmp_path):
    """A copy of the two steps, to damage."""
    return shutil.copytree(two_steps, tmp_path / "checkpoints")


def test_restores_bit_for_bit(two_steps):
    state = make_state(10)
    saved, rejected = checkpoint.newest(two_steps)
    assert saved is not None
    assert (saved.step, saved.numbers["step"], rejected) == (10, 10, [])
    for item, tree in (("params", state.params), ("rest", checkpoint.rest(state))):
        restored = checkpoint.restore(saved.folder / item, shapes(tree))
        assert jax.tree.structure(restored) == jax.tree.structure(tree)
        for before, after in zip(jax.tree.leaves(tree), jax.tree.leaves(restored), strict=True):
            assert np.asarray(before).dtype == np.asarray(after).dtype
            assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


def test_an_array_of_many_chunks_comes_back_bit_for_bit(tmp_path):
    large = np.random.default_rng(0).integers(0, 2**32, (2_100, 4_099), np.uint32)
    assert large.nbytes > 2 * checkpoint.CHUNK_BYTES
    state = TrainState(np.int32(3), {"large": large}, None, spikes.none_yet())
    saved = checkpoint.save(tmp_path, state, {"step": 3})
    restored = checkpoint.restore(saved / "params", {"large": large})
    np.testing.assert_array_equal(restored["large"], large)


def test_a_flipped_bit_in_any_file_is_named(folder):
    files = [path for path in (folder / "10").rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        good = path.read_bytes()
        for position in {0, len(good) // 3, len(good) // 2, len(good) - 1}:
            for bit in (0, 5, 7):
                bad = bytearray(good)
                bad[position] ^= 1 << bit
                path.write_bytes(bad)
                # Damage to the seal shows at the files it speaks of.
                named = None if path.name == "seal.json" else path.name
                with pytest.raises(DataError, match=named):
                    checkpoint.verify(folder / "10")
        path.write_bytes(good)
    assert checkpoint.verify(folder / "10").step == 10


def test_every_part_of_the_seal_counts(folder):
    seal = folder / "10" / "seal.json"
    good = seal.read_bytes()
    for position in [*range(40), *range(40, len(good), 37)]:
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        seal.write_bytes(bad)
        with pytest.raises(DataError):
            checkpoint.verify(folder / "10")


@pytest.mark.parametrize("damage", ["cut", "emptied", "deleted"])
def test_a_short_or_missing_file_is_named(folder, damage):
    for path in [path for path in (folder / "10").rglob("*") if path.is_file()]:
        good = path.read_bytes()
        if damage == "deleted":
            path.unlink()
        else:
            path.write_bytes(good[:-1] if damage == "cut" else b"")
        if good or damage == "deleted":
            with pytest.raises(DataError, match=path.name):
                checkpoint.verify(folder / "10")
        path.write_bytes(good)


def test_a_stray_file_is_named(folder):
    (folder / "10" / "params" / "stray").write_text("?")
    with pytest.raises(DataError, match="stray: not in the seal"):
        checkpoint.verify(folder / "10")


def test_falls_back_to_the_newest_whole_step_and_says_why(folder):
    (folder / "700").mkdir()
    shutil.rmtree(folder / "10" / "rest")
    saved, rejected = checkpoint.newest(folder)
    assert saved is not None and saved.step == 5
    assert len(rejected) == 2
    assert "700: expected a sealed checkpoint" in rejected[0]
    assert str(folder / "10" / "rest") in rejected[1] and "missing" in rejected[1]


def test_nothing_is_deleted_where_nothing_is_whole(folder):
    for step in ("5", "10"):
        (folder / step / "numbers.json").write_text("{}")
    before = sorted(folder.rglob("*"))
    with pytest.raises(DataError, match=r"(?s)nothing was deleted.*10/numbers.*5/numbers"):
        checkpoint.newest(folder)
    assert sorted(folder.rglob("*")) == before


def test_no_folder_and_no_steps_are_no_error(tmp_path):
    assert checkpoint.newest(tmp_path / "absent") == (None, [])
    assert checkpoint.newest(tmp_path) == (None, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: {**p, "embedding": p["embedding"][:, :16]},
            "embedding: expected float32.64, 16",
        ),
        (lambda p: {**p, "embedding": p["embedding"].astype(np.float16)}, "embedding: .*float16"),
        (lambda p: {**p, "more": p["embedding"]}, "more: expected float32.*found nothing"),
        (lambda p: {"embedding": p["embedding"]}, "blocks/kernel: expected nothing"),
    ],
)
def test_another_structure_shape_or_dtype_is_refused(two_steps, change, message):
    params = make_state(10).params
    with pytest.raises(DataError, match=message):
        checkpoint.restore(two_steps / "10" / "params", shapes(change(params)))


def test_clean_keeps_the_newest_and_the_best(folder):
    for step, loss in ((1, 3.0), (2, 1.5), (3, 2.0), (4, None)):
        (folder / str(step)).mkdir()
        (folder / str(step) / "numbers.json").write_text(
            f'{{"val_loss": {"null" if loss is None else loss}}}'
        )
    (folder / ".saving-12" / "params").mkdir(parents=True)
    (folder / ".trash-1").mkdir()
    (folder / ".of-another-program").write_text("stays")
    checkpoint.clean(folder, good=10, keep=2, best_of="val_loss")
    assert {path.name for path in folder.iterdir()} == {"10", "5", "2", ".of-another-program"}


def test_damaged_newer_steps_do_not_push_out_whole_ones(folder):
    (folder / "700").mkdir()
    checkpoint.clean(folder, good=10, keep=1)
    assert checkpoint.steps(folder) == [700, 10]


@pytest.mark.parametrize("how", ["donated", "written over"])
def test_saver_copies_what_it_is_given(tmp_path, how):
    expected = jax.tree.map(np.asarray, make_state(3))
    state = jax.tree.map(jnp.array, make_state(3))
    if how == "written over":
        state = jax.tree.map(np.array, state)
    saver = checkpoint.Saver(tmp_path, keep=2)
    saver.save(state, {"val_loss": None})
    if how == "donated":
        jax.jit(lambda s: jax.tree.map(lambda a: a * 0, s), donate_argnums=0)(state)
    else:
        for leaf in jax.tree.leaves(state):
            leaf[...] = 0
    saver.wait()
    restored = checkpoint.restore(tmp_path / "3" / "params", shapes(expected.params))
    np.testing.assert_array_equal(restored["embedding"], expected.params["embedding"])


def test_saver_raises_at_the_next_call(folder):
    (folder / ".saving-12").write_text("in the way")
    saver = checkpoint.Saver(folder, keep=1)
    saver.save(make_state(12), {"val_loss": None})
    with pytest.raises(checkpoint.SaveError, match="earlier steps are whole"):
        saver.save(make_state(15), {"val_loss": None})
    assert checkpoint.steps(folder) == [10, 5]
    (folder / ".saving-12").unlink()
    saver.save(make_state(15), {"val_loss": None})
    saver.wait()
    assert checkpoint.steps(folder) == [15]


FULL_DISK = """
import pathlib, resource, sys
import numpy as np
import optax
from lmjax.learning.step import init_state
from lmjax.runtime import checkpoint

def state(step):
    params = {"w": np.random.default_rng(step).normal(size=30_000)}
    return init_state(params, optax.trace(0.9))._replace(step=np.int32(step))

saver = checkpoint.Saver(pathlib.Path(sys.argv[1]), keep=2)
saver.save(state(1), {"val_loss": None})
saver.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
saver.save(state(2), {"val_loss": None})
try:
    saver.save(state(3), {"val_loss": None})
except checkpoint.SaveError as error:
    print(error)
"""


@pytest.mark.parametrize("item", ["params", "rest"])
def test_a_run_that_is_renamed_while_it_is_saved_does_not_come_back(tmp_path, monkeypatch, item):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    (run / "checkpoints").mkdir(parents=True)
    makedirs = os.makedirs

    def rename_and_makedirs(path, *how, **said):
        if Path(path).name.startswith(item):
            run.rename(elsewhere)
        makedirs(path, *how, **said)  # as Orbax calls it, it makes the run's folder anew

    monkeypatch.setattr(os, "makedirs", rename_and_makedirs)
    with pytest.raises(FileNotFoundError, match="removed or renamed while a step was saved"):
        checkpoint.save(run / "checkpoints", jax.tree.map(np.asarray, make_state(1)), {"step": 1})
    assert checkpoint.steps(run / "checkpoints") == []


def test_a_full_disk_leaves_the_older_step_and_the_process_ends(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "checkpoints")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "saving failed, earlier steps are whole" in ended.stdout, ended.stderr
    assert ended.returncode == 0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert checkpoint.verify(tmp_path / "checkpoints" / "1").step == 1
