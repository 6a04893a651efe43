"""A run whose updates are dropped one after another goes back, passes the rows by, and goes on."""

import numpy as np
import pytest
from commands import DEFAULT, Commands, arrays, wait_for

from lmjax.data import loader, packing, shards
from lmjax.runtime import checkpoint, journal, rewinding

POISON = 250
RECIPE = (
    DEFAULT.replace("evaluation=", "guard=GuardConfig(most_drops=5), evaluation=")
    + f"""

import jax
import jax.numpy as jnp
import optax


def make_optimizer(config):
    def refuse(updates, params):
        seen = jnp.abs(updates["embedding"][{POISON}]).sum() > 0
        return jax.tree.map(lambda u: jnp.where(seen, jnp.nan, u), updates)

    return optax.chain(optax.stateless(refuse), optax.adam(1e-3))
"""
)


@pytest.fixture
def poisoned(tmp_path, environment):
    """`poisoned(name, first, stop)`: commands on a corpus whose rows in those places of the order
    hold a token that this recipe's optimizer cannot take."""

    def make(name, first, stop):
        folder = tmp_path / name
        folder.mkdir()
        ids = np.random.default_rng(0).integers(0, 200, 20_000).astype(np.uint16)
        ids[:2000].tofile(folder / "val.bin")
        ids.tofile(folder / "train.bin")
        table = packing.pack(shards.open_shards([folder / "train.bin"]), 32, None, "documents")
        for place in range(first, stop):
            ((start, _),) = table.pieces(loader.order(0, len(table), place))
            ids[start + 16] = POISON
        ids.tofile(folder / "train.bin")
        commands = Commands(folder / "work", environment, folder)
        (commands.folder / "poisoned.py").write_text(RECIPE)
        return commands

    return make


def settings(*more):
    return ["--model.vocab-size", "256", *more]


def events(run, kind):
    return [e for e in journal.read(run / "events.jsonl") if e["event"] == kind]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_it_goes_back_once_however_it_is_killed(poisoned):
    """Rows 104 to 139: dropped are 27 to 31, then 26 to 29 after the rewind. 30 was sealed before,
    and belongs to a way that was given up."""
    commands = poisoned("whole", 104, 140)
    ended = commands.train(*settings(), recipe="poisoned.py")
    assert ended.code == 0, ended.err
    whole = commands.folder / "run"
    rewound = {"event": "rewind", "step": 31, "to": 25, "rows": 124}
    assert events(whole, "rewind") == [rewound]
    lines = [e for e in journal.read(whole / "metrics.jsonl") if "loss" in e]
    assert [e["step"] for e in lines] == list(range(1, 61))
    assert [e["step"] for e in lines if e["skipped"]] == [26, 27, 28, 29]
    assert lines[-1]["tokens"] == (124 + 35 * 4) * 32

    for kind, count in (("skip", 3), ("rewind", 1), ("skip", 7)):
        commands = poisoned(f"killed-{kind}-{count}", 104, 140)
        run = commands.folder / "run"
        process = commands.start_training(*settings(), recipe="poisoned.py")
        wait_for(run / "events.jsonl", process, lines=1)
        while len(events(run, kind)) < count:
            assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate()
        if (kind, count) == ("skip", 7):  # the step it went back to is lost: one before serves
            (run / "checkpoints" / "25" / "numbers.json").write_bytes(b"{")
        ended = commands.train(*settings(), recipe="poisoned.py")
        assert ended.code == 0, ended.err
        assert events(run, "rewind") == [rewound]
        assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
        assert arrays(run) == arrays(whole)

    ended = commands.train(*settings("--replay", "run", "--run", "again"), recipe="poisoned.py")
    assert ended.code == 78
    assert "replay: expected a run that never went back" in ended.err


def test_a_later_rewind_to_an_earlier_step_undoes_the_one_before():
    one, two = rewinding.Rewind(31, 25, 124), rewinding.Rewind(50, 40, 230)
    assert rewinding.jumps([]) == {}
    assert rewinding.jumps([one, two]) == {25: 124, 40: 230}
    assert rewinding.jumps([one, two, rewinding.Rewind(45, 40, 260)]) == {25: 124, 40: 260}
    assert rewinding.jumps([one, two, rewinding.Rewind(45, 20, 300)]) == {20: 300}


def test_what_does_not_end_ends_the_run(poisoned):
    commands = poisoned("endless", 104, 600)
    bounded = settings("--guard.most-rewinds", "1")
    ended = commands.train(*bounded, recipe="poisoned.py")
    assert (ended.code, ended.out) == (70, "")
    assert "5 updates in a row were dropped, steps 26 to 30" in ended.err
    assert "from step 31 back to 25, past row 124" in ended.err
    assert "Lower the learning rate" in ended.err
    run = commands.folder / "run"
    # What was whole is still there, and starting again does not make it train on.
    assert checkpoint.verify(run / "checkpoints" / "25").step == 25
    assert commands.train(*bounded, recipe="poisoned.py").code == 70
    assert len(events(run, "rewind")) == 1
