"""A disk that takes small files and no checkpoint: the kernel limits what a process may write."""

import resource
import time

import pytest
from commands import arrays, finish, wait_for

from lmjax.runtime import checkpoint, journal

pytestmark = [pytest.mark.faults]

SETTINGS = ["--budget", "300steps", "--log.every", "10", "--evaluation.every", "1000steps"]
SETTINGS += ["--checkpoint.every", "20steps"]


def limit(process, size: int) -> None:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def begin(commands, on_failure: str):
    """A run that has saved, and can save no more."""
    process = commands.start_training(*SETTINGS, "--checkpoint.on-failure", on_failure)
    wait_for(commands.folder / "run" / "metrics.jsonl", process, lines=4)
    limit(process, 100_000)
    return process


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment, corpus):
    """The run on a disk that is large enough."""
    from commands import Commands

    commands = Commands(tmp_path_factory.mktemp("whole"), environment, corpus)
    ended = commands.train(*SETTINGS)
    assert ended.code == 0, ended.err
    return commands.folder / "run"


def test_it_ends_and_goes_on_where_there_is_room(commands, whole):
    ended = finish(begin(commands, "stop"))
    assert (ended.code, ended.out) == (75, ""), ended.err
    assert "saving failed, earlier steps are whole" in ended.why
    run = commands.folder / "run"
    saved, rejected = checkpoint.newest(run / "checkpoints")
    assert saved is not None and rejected == []
    assert not list(run.rglob(".saving-*"))
    ended = commands.train(*SETTINGS, "--checkpoint.on-failure", "warn")  # no other run by that
    assert ended.code == 0, ended.err
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert arrays(run) == arrays(whole)


def test_it_goes_on_where_it_was_told_to(commands, whole):
    run, process = commands.folder / "run", begin(commands, "warn")
    while not any(e["event"] == "unsaved" for e in journal.read(run / "events.jsonl")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    before = max(checkpoint.steps(run / "checkpoints"))
    limit(process, resource.RLIM_INFINITY)
    ended = finish(process)
    assert ended.code == 0, ended.err
    assert "saving failed" in ended.err and "training goes on" in ended.err
    assert checkpoint.verify(run / "checkpoints" / "300").step > before
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert arrays(run) == arrays(whole)


def test_the_last_state_must_be_saved(commands):
    ended = finish(begin(commands, "warn"))
    assert ended.code == 75 and "saving failed, earlier steps are whole" in ended.why
    assert "SignalingThread" not in ended.err  # Orbax's own report of it, a page long
    _, rejected = checkpoint.newest(commands.folder / "run" / "checkpoints")
    assert rejected == []
