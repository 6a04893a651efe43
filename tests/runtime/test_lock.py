"""One writer per run folder, and none for ever."""

import subprocess
import sys

import pytest

from lmjax.runtime import lock

HOLD = """
import pathlib, signal, sys
from lmjax.runtime import lock
with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def test_the_second_is_refused_until_the_first_dies(tmp_path):
    run = tmp_path / "runs" / "a"
    command = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(lock.Locked, match=rf"already being written by .*{holder.pid}"):
                with lock.hold(run):
                    pass
        finally:
            holder.kill()
    with lock.hold(run):
        pass


def test_it_can_be_held_again_by_the_same_process(tmp_path):
    for _ in range(2):
        with lock.hold(tmp_path):
            pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(lock.Locked, match=r"file/run: expected a folder that can be written"):
        with lock.hold(tmp_path / "file" / "run"):
            pass


def test_what_fails_where_the_folder_is_gone_says_so(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        with lock.hold(run) as held:
            assert held()
            raise ZeroDivisionError
    with pytest.raises(lock.Locked, match="run: removed or renamed while it was being written"):
        with lock.hold(run) as held:
            run.rename(tmp_path / "elsewhere")
            run.mkdir()
            (run / "lock").touch()  # of another trainer
            assert not held()
            raise ZeroDivisionError
