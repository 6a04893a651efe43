"""Signals in each part of a run, to the process and to its group: 75, and exact when it goes on.

The run's own count of its time, written five times a second, says which part it is in.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from commands import DEFAULT, arrays, finish, wait_for

from lmjax.runtime import checkpoint, journal

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

# A disk that is slow to read, or to make sure of what was written, where SLOW asks for it.
SLOW = (
    DEFAULT
    + """

import os
import time

_seconds, _read, _sync = 0.05, os.preadv, os.fsync


def _slow_read(*words):
    time.sleep(_seconds)
    return _read(*words)


def _slow_sync(*words):
    time.sleep(_seconds)
    return _sync(*words)


if os.environ.get("SLOW") == "read":
    os.preadv = _slow_read
if os.environ.get("SLOW") == "sync":
    os.fsync = _slow_sync
"""
)
_EVALUATE = ["--evaluation.every", "1steps", "--evaluation.rows", "1"]
_EVALUATE += ["--evaluation.max-rows", "2000"]
# By section: what makes a run stay in it, and which disk is slow.
STAYS = {
    "compile": (["--budget", "12steps"], ""),
    "data": (["--budget", "40steps"], "read"),
    "step": (["--batch.rows", "1024", "--batch.micro-rows", "4", "--budget", "6steps"], ""),
    "evaluate": ([*_EVALUATE, "--budget", "6steps"], ""),
    "save": (["--checkpoint.every", "1steps", "--budget", "12steps"], "sync"),
}
NUMBERS = (signal.SIGTERM, signal.SIGINT)


def in_a_group(folder, environment, words) -> subprocess.Popen[str]:
    """The command that trains, in a group of its own, as a scheduler starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "lmjax.train", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


class Sections:
    """One command, to be disturbed: `--run run` by default."""

    def __init__(self, commands, section):
        self.commands, self.section = commands, section
        (commands.folder / "slow.py").write_text(SLOW)
        self.settings, self.slow = STAYS[section]
        self.run = commands.folder / "run"

    def whole(self):
        """The run that nothing disturbs."""
        ended = self.commands.train(*self.settings, "--run", "whole", recipe="slow.py")
        assert ended.code == 0, ended.err
        return self.commands.folder / "whole"

    def start(self) -> subprocess.Popen[str]:
        environment = {**self.commands.environment, "SLOW": self.slow}
        if self.section == "compile":  # nothing is compiled yet
            environment["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=self.commands.folder)
        words = self.commands.train_arguments(*self.settings, recipe="slow.py")
        return in_a_group(self.commands.folder, environment, words)

    def arrive(self, process: subprocess.Popen[str]) -> None:
        """Wait until most of its time goes into the section."""
        limit, before = time.monotonic() + 120, self._count()
        while True:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, f"never most of its time in {self.section}: {before}"
            time.sleep(0.02)
            now = self._count()
            grown = {name: now[name] - before.get(name, 0.0) for name in now}
            if sum(grown.values()) > 0:
                if grown[self.section] > 0.8 * sum(grown.values()):
                    return
                before = now

    def _count(self) -> dict[str, float]:
        path = self.run / "pulse.json"
        return json.loads(path.read_text()) if path.exists() else {}


@pytest.mark.parametrize("section", STAYS)
def test_it_is_saved_and_goes_on_exactly(commands, section):
    run = Sections(commands, section)
    for number in NUMBERS:  # SIGTERM to the process, then SIGINT to the group
        process = run.start()
        run.arrive(process)
        (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
        ended = finish(process)
        assert (ended.code, ended.out) == (75, ""), ended.err
        assert f"stopped by {number.name} at step" in ended.err and "Traceback" not in ended.err
        saved, rejected = checkpoint.newest(run.run / "checkpoints")
        stop = journal.read(run.run / "events.jsonl")[-1]
        assert saved is not None and rejected == []
        assert (stop["event"], stop["step"], stop["signal"]) == ("stop", saved.step, number.name)
    whole = run.whole()
    ended = commands.train(*run.settings, recipe="slow.py")
    assert ended.code == 0, ended.err
    assert (run.run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert arrays(run.run) == arrays(whole)


@pytest.mark.parametrize("section", STAYS)
def test_a_second_signal_ends_it_there_and_then(commands, section):
    run = Sections(commands, section)
    process = run.start()
    run.arrive(process)
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGINT)
    ended = finish(process)
    assert ended.code in (128 + number for number in NUMBERS) and ended.out == ""
    assert "Traceback" not in ended.err
    assert [e["event"] for e in journal.read(run.run / "events.jsonl")] in ([], ["start"])
    _, rejected = checkpoint.newest(run.run / "checkpoints")
    assert rejected == []


def test_preparing_is_broken_off_with_all_its_workers(commands):
    commands.corpus = commands.folder / "own"
    settings = ["--text.tokenizer.vocab-size", "512", "--text.processes", "2", "--budget", "2steps"]
    spool = commands.folder / ".own.partial" / "spool"
    for number in NUMBERS:
        words = commands.train_arguments(*settings)
        process = in_a_group(commands.folder, commands.environment, words)
        wait_for(spool, process, lines=1)
        os.killpg(process.pid, number)
        ended = finish(process)
        assert (ended.code, ended.out) == (75, ""), ended.err
        assert f"stopped by {number.name} while" in ended.err and "Traceback" not in ended.err
        assert not spool.parent.exists() and not commands.corpus.exists()
        with pytest.raises(ProcessLookupError):  # nobody is left of the group
            os.killpg(process.pid, 0)
    ended = commands.train(*settings)
    assert ended.code == 0, ended.err
