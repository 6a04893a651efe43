"""A run that is training has one writer and any number of readers, and needs its folder."""

import contextlib
import shutil
import time

import pytest
from commands import finish, wait_for

from lmjax.evaluate import evaluate
from lmjax.generate import main as generate
from lmjax.runtime import checkpoint, journal

ENDLESS = ["--budget", "1000000steps", "--log.every", "1", "--evaluation.every", "1000000steps"]


@pytest.fixture
def live(commands):
    """A process that trains until it is killed, a checkpoint every third step."""
    process = commands.start_training(*ENDLESS, "--checkpoint.every", "3steps")
    wait_for(commands.folder / "run" / "timing.jsonl", process, lines=20)
    yield process
    process.kill()
    process.communicate()


def test_a_second_trainer_is_refused_at_once_and_harms_nothing(commands, live):
    again = [*ENDLESS, "--checkpoint.every", "3steps"]
    begun = time.monotonic()
    second = commands.train(*again)
    assert time.monotonic() - begun < 3
    assert (second.code, second.out) == (73, "")
    assert f'"pid": {live.pid}' in second.err and "already being written" in second.err
    timing = commands.folder / "run" / "timing.jsonl"
    wait_for(timing, live, lines=timing.read_bytes().count(b"\n") + 20)  # the first goes on
    live.kill()
    live.communicate()
    third = commands.start_training(*again)  # its lock went with it
    events = commands.folder / "run" / "events.jsonl"
    wait_for(events, third, lines=2)
    third.terminate()
    assert finish(third).code == 75
    assert [e["event"] for e in journal.read(events)] == ["start", "resume", "stop"]


def test_readers_never_fail(commands, live, in_process, capsys):
    run, steps = commands.folder / "run", []
    for seed in range(6):
        steps.append(evaluate(run=run, data=commands.corpus)["step"])
        words = ["--prompt", "The", "--max-tokens", "2", "--seed", str(seed)]
        generate(["--run", str(run), *words])
        assert capsys.readouterr().out.startswith("The")
    assert steps == sorted(steps) and steps[-1] > steps[0]
    assert live.poll() is None
    for verb, words in (("evaluate", ["--json"]), ("generate", ["--prompt", "", "--top-k", "1"])):
        ended = commands.run(verb, "--run", "run", *words)
        assert ended.code == 0 and ended.out, ended.err


@pytest.mark.parametrize("every", ["3steps", "1000000steps"])
@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_it_ends_by_itself_where_its_folder_is_gone(commands, every, how):
    process = commands.start_training(*ENDLESS, "--checkpoint.every", every)
    run, elsewhere = commands.folder / "run", commands.folder / "elsewhere"
    wait_for(run / "timing.jsonl", process, lines=20)
    begun = time.monotonic()
    if how == "renamed":
        run.rename(elsewhere)
    while run.exists():  # a save under way writes into what is being removed
        with contextlib.suppress(OSError):
            shutil.rmtree(run)
    ended = finish(process)
    assert time.monotonic() - begun < 10
    assert (ended.code, ended.out) == (73, "")
    assert ended.why.startswith("lmjax: run: removed or renamed while it was being written")
    # A save under way may have written its parts anew; nothing that a reader takes for a run.
    assert {path.name for path in run.glob("*")} <= {"checkpoints"}
    assert checkpoint.steps(run / "checkpoints") == []
    if how == "renamed":
        again = commands.start_training(*ENDLESS, "--checkpoint.every", every, "--run", "elsewhere")
        wait_for(elsewhere / "events.jsonl", again, lines=2)
        again.terminate()
        assert finish(again).code == 75
