"""Two processes train one model: the losses of one; one that is lost, or stopped, ends both."""

import shutil
import signal
import socket

import pytest
from commands import arrays, finish, wait_for

from lmjax.runtime import checkpoint, journal

WIDE = ["--model.width", "64", "--model.unroll", "1", "--evaluation.every", "30steps"]


def start_pair(commands, run):
    """Two processes, one device each, that divide the state."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    settings = ["--run", run, *WIDE, "--mesh.fsdp", "2", "--processes.count", "2"]
    settings += ["--processes.coordinator", f"localhost:{port}"]
    return [commands.start_training(*settings, "--processes.index", str(i)) for i in range(2)]


def losses(run):
    entries = journal.read(run / "metrics.jsonl")
    return [e["loss"] if "loss" in e else e["val_loss"] for e in entries]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, environment, corpus):
    """One process on one device."""
    from commands import Commands

    commands = Commands(tmp_path_factory.mktemp("alone"), environment, corpus)
    ended = commands.train(*WIDE)
    assert ended.code == 0, ended.err
    return losses(commands.folder / "run")


@pytest.mark.timeout(600)  # of which JAX takes half a minute to find a process gone
def test_a_pair_is_one_run(commands, alone):
    """Never stopped; or one of them killed, then the other, and each time both started again."""
    reference = [finish(process) for process in start_pair(commands, "reference")]
    assert [ended.code for ended in reference] == [0, 0], reference[1].err
    assert "loss" not in reference[1].err  # the console is the first one's
    whole = commands.folder / "reference"
    assert losses(whole) == pytest.approx(alone, abs=1e-5, rel=0)

    run = commands.folder / "killed"
    metrics = run / "metrics.jsonl"
    for victim, lines in ((1, 12), (0, 37)):
        pair = start_pair(commands, "killed")
        wait_for(metrics, pair[victim], lines)
        pair[victim].kill()
        left = finish(pair[1 - victim])  # within 120 s
        assert left.code == 75, left.err
        assert left.why.startswith("lmjax: another process of this run is gone")
        finish(pair[victim])
        saved, rejected = checkpoint.newest(run / "checkpoints")
        assert saved is not None and saved.step >= lines - 12 and not rejected
        if victim == 1:
            shutil.copytree(run, commands.folder / "one")
    pair = start_pair(commands, "killed")
    wait_for(metrics, pair[0], lines=46)
    pair[1].send_signal(signal.SIGTERM)  # the first hears of it and stops both
    assert [finish(process).code for process in pair] == [75, 75]
    assert journal.read(run / "events.jsonl")[-1]["event"] == "stop"

    ended = [finish(process) for process in start_pair(commands, "killed")]
    assert [e.code for e in ended] == [0, 0], ended
    assert metrics.read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert arrays(run) == arrays(whole)

    one = commands.train("--run", "one", *WIDE)
    assert one.code == 0, one.err
    assert "resumed at step" in one.err
    assert losses(commands.folder / "one") == pytest.approx(alone, abs=1e-5, rel=0)


def test_what_cannot_be_is_refused(commands):
    settings = ["--processes.count", "2", "--processes.index", "0"]
    ended = commands.train(*settings)
    assert ended.code == 78
    assert "processes.coordinator: expected given" in ended.err and "Traceback" not in ended.err
    ended = commands.train("--processes.count", "auto")
    assert ended.code == 78
    assert "expected to be started by SLURM" in ended.err
    assert "Traceback" not in ended.err and not (commands.folder / "run").exists()
