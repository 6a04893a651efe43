"""What a process used is known after it was killed."""

import contextlib
import signal
import subprocess
import sys
import time

import pytest

from lmjax.config import ConfigError
from lmjax.runtime import journal, pulse
from lmjax.runtime.ledger import Ledger

PROGRAM = """
import sys, time
from pathlib import Path
from lmjax.runtime import pulse
from lmjax.runtime.ledger import Ledger

ledger = Ledger()
with pulse.counted(Path(sys.argv[1]), ledger), ledger.section("compile"):
    time.sleep(600)
"""


def killed(run, after):
    """Run the program until it has told more than `after` seconds, then kill it."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(run)])
    limit = time.monotonic() + 60
    while sum(pulse.carried(run).values()) <= after:
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return pulse.carried(run)


def test_killed_processes_add_up(tmp_path):
    first = killed(tmp_path, after=0)
    assert first["compile"] > 0
    second = killed(tmp_path, after=sum(first.values()))
    assert second["compile"] > first["compile"]
    ledger = Ledger()
    with pulse.counted(tmp_path, ledger):
        assert ledger.seconds()["compile"] == second["compile"]
    assert not list(tmp_path.iterdir())  # over


def test_the_larger_count_holds_and_a_torn_file_is_passed_over(tmp_path):
    logged = {"step": 5.0, "data": 1.0}
    with contextlib.closing(journal.Journal(tmp_path / "timing.jsonl")) as timing:
        timing.write({"step": 3, "ledger": logged})
    assert pulse.carried(tmp_path) == logged
    (tmp_path / "pulse.json").write_text('{"step": 7.0, "da')
    assert pulse.carried(tmp_path) == logged
    (tmp_path / "pulse.json").write_text('{"step": 7.0, "data": 1.0}')
    assert pulse.carried(tmp_path) == {"step": 7.0, "data": 1.0}


@pytest.mark.parametrize(("error", "counts"), [(ConfigError, False), (RuntimeError, True)])
def test_what_is_refused_counts_nothing(tmp_path, error, counts):
    (tmp_path / "pulse.json").write_text('{"step": 7.0}')
    with pytest.raises(error), pulse.counted(tmp_path, Ledger()):
        time.sleep(0.01)
        raise error("no")
    assert (sum(pulse.carried(tmp_path).values()) > 7.0) == counts
    (new := tmp_path / "new").mkdir()
    with pytest.raises(error), pulse.counted(new, Ledger()):
        raise error("no")
    assert (new / "pulse.json").exists() == counts


def test_it_follows_its_folder(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    with pytest.raises(RuntimeError), pulse.counted(run, Ledger()):
        run.rename(elsewhere)
        run.mkdir()  # as a save under way does
        time.sleep(2 * pulse._SECONDS)
        raise RuntimeError("gone")
    assert not list(run.iterdir()) and sum(pulse.carried(elsewhere).values()) > 0
    with pulse.counted(run, Ledger()):
        run.rmdir()
        time.sleep(2 * pulse._SECONDS)
    assert not run.exists()
