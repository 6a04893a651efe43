"""Runs that several tests read."""

import time
from typing import NamedTuple

import pytest
from commands import Commands, Ended


class Finished(NamedTuple):
    """A run that nothing interrupted, what it printed, and how long it took."""

    commands: Commands
    ended: Ended
    seconds: float

    @property
    def run(self):
        return self.commands.folder / "run"


@pytest.fixture
def commands(tmp_path, environment, corpus):
    return Commands(tmp_path, environment, corpus)


@pytest.fixture(scope="session")
def finished_by(tmp_path_factory, environment, corpus):
    """`finished_by(recipe)`: a run of that recipe; not to be changed."""
    done = {}

    def finish(recipe):
        if recipe not in done:
            commands = Commands(tmp_path_factory.mktemp("finished"), environment, corpus)
            # The programs are compiled here, so that the time measured is that of a restart.
            first = commands.train("--run", "first", "--budget", "1steps", recipe=recipe)
            assert first.code == 0, first.err
            begun = time.monotonic()
            ended = commands.train(recipe=recipe)
            assert ended.code == 0, ended.err
            done[recipe] = Finished(commands, ended, time.monotonic() - begun)
        return done[recipe]

    return finish


@pytest.fixture
def finished(finished_by):
    return finished_by("default.py")


@pytest.fixture
def in_process(environment, monkeypatch):
    """Commands called in this process keep compiled programs where the others do."""
    monkeypatch.setenv("XDG_CACHE_HOME", environment["XDG_CACHE_HOME"])
