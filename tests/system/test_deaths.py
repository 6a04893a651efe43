"""A process may die at any file operation of a save: there is always a whole step to go on from."""

import json
import subprocess
import sys

import dying
import jax
import numpy as np
import pytest

from lmjax.runtime import checkpoint


@pytest.fixture
def before(tmp_path):
    """Two whole steps, the one to be saved damaged, and what earlier deaths have left."""
    folder = tmp_path / "before"
    for step in (5, 10, dying.STEP):
        checkpoint.save(folder, dying.state(step), {"step": step, "val_loss": None})
    (folder / str(dying.STEP) / "numbers.json").write_text("{}")
    for name in (f".saving-{dying.STEP}", ".trash-5", f".trash-{dying.STEP}"):
        (folder / name / "params").mkdir(parents=True)
        (folder / name / "params" / "manifest.ocdbt").write_text("half")
    return folder


def assert_holds(folder, state):
    for item, tree in (("params", state.params), ("rest", checkpoint.rest(state))):
        restored = checkpoint.restore(folder / item, jax.eval_shape(lambda tree=tree: tree))
        for before, after in zip(jax.tree.leaves(tree), jax.tree.leaves(restored), strict=True):
            assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


@pytest.mark.parametrize(
    "stride",
    [
        pytest.param(23, id="some"),
        pytest.param(1, id="every", marks=[pytest.mark.faults, pytest.mark.timeout(900)]),
    ],
)
def test_whatever_it_dies_at_a_whole_step_is_left(before, tmp_path, stride):
    words = [sys.executable, dying.__file__, before, tmp_path, str(stride)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=800, check=False)
    assert ended.returncode == 0, ended.stderr
    deaths = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [death["code"] for death in deaths] == [137] * (len(deaths) - 1) + [0]
    found = []
    for death in deaths:
        folder = before.with_name(death["folder"].rpartition("/")[2])
        saved, rejected = checkpoint.newest(folder)
        assert saved is not None and saved.step in (10, dying.STEP)
        assert all(f"/{dying.STEP}/numbers.json: " in reason for reason in rejected)
        assert_holds(saved.folder, dying.state(saved.step))
        found.append(saved.step)
        # The next process goes on.
        checkpoint.clean(folder, saved.step, dying.KEEP, best_of="val_loss")
        dying.save(folder, 20)
        assert [path.name for path in folder.iterdir()] == ["20"]
        assert checkpoint.verify(folder / "20").step == 20
    assert found == sorted(found) and set(found) == {10, dying.STEP}
