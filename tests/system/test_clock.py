"""A budget in time over three processes, while the clock on the wall jumps an hour either way."""

import signal
import time

import pytest
from commands import finish, wait_for

from lmjax.runtime import journal

pytestmark = [pytest.mark.faults]

# Python runs it first. The clock stands CLOCK seconds wrong from the start, and jumps
# by an hour as often as it is asked.
JUMPING = """
import os
import time

_time, _asked, _wrong = time.time, 0, float(os.environ["CLOCK"])


def _jumping():
    global _asked
    _asked += 1
    return _time() + _wrong + 3600 * (_asked % 3 - 1)


time.time = _jumping
"""
BUDGET = 40.0


def test_an_hour_forth_and_back_changes_nothing(commands):
    (commands.folder / "sitecustomize.py").write_text(JUMPING)
    first = {"PYTHONPATH": str(commands.folder)}
    run = commands.folder / "run"
    used = 0.0

    def start(clock: float):
        commands.environment = {**commands.environment, **first, "CLOCK": str(clock)}
        return commands.start_training("--budget", f"{BUDGET:.0f}s")

    begun = time.monotonic()
    process = start(3600)
    wait_for(run / "metrics.jsonl", process, lines=20)
    process.kill()
    process.communicate()
    used += time.monotonic() - begun

    begun = time.monotonic()
    process = start(-3600)
    wait_for(run / "events.jsonl", process, lines=4)
    process.send_signal(signal.SIGTERM)
    assert finish(process).code == 75
    used += time.monotonic() - begun

    begun = time.monotonic()
    ended = finish(start(0))
    assert ended.code == 0, ended.err
    used += time.monotonic() - begun

    events = journal.read(run / "events.jsonl")
    done = events[-1]
    assert done["event"] == "done" and sum(done["ledger"].values()) == done["elapsed"]
    # Counted once, but for a fifth of a second at a kill, and the ends of processes.
    assert used - 5 < done["elapsed"] <= used
    assert BUDGET - 3 < done["elapsed"] < BUDGET + 2
    elapsed = [e["elapsed"] for e in journal.read(run / "timing.jsonl")]
    assert elapsed == sorted(elapsed) and elapsed[-1] <= done["elapsed"]
