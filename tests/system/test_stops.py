"""Runs asked to stop, runs that are over, and what is refused."""

import shutil
import signal

from commands import Commands, arrays, files, finish, wait_for

from lmjax.runtime import checkpoint, journal


def stopped_at(run) -> int:
    """The step of the newest sealed checkpoint, which is where the run stopped."""
    saved, rejected = checkpoint.newest(run / "checkpoints")
    assert saved is not None and rejected == []
    stop = journal.read(run / "events.jsonl")[-1]
    assert (stop["event"], stop["step"]) == ("stop", saved.step)
    return saved.step


def test_signals_stop_it_and_the_same_command_goes_on(commands, finished):
    run = commands.folder / "run"
    process = commands.start_training()  # stopped while it starts
    wait_for(run / "config.json", process)
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert (ended.code, ended.out) == (75, "")
    assert "stopped by SIGTERM at step 0, saved; run me again" in ended.err
    assert stopped_at(run) == 0

    process = commands.start_training()  # stopped between two saves
    wait_for(run / "metrics.jsonl", process, lines=8)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert ended.code == 75, ended.err
    assert "stopped by SIGINT" in ended.err and "Traceback" not in ended.err
    assert stopped_at(run) >= 8

    other = commands.train(recipe="composed.py")  # the same numbers, another optimizer
    assert other.code == 78, other.err
    assert "optimizer" in other.err and "other settings" in other.err

    ended = commands.train()
    assert ended.code == 0, ended.err
    assert (run / "metrics.jsonl").read_bytes() == (finished.run / "metrics.jsonl").read_bytes()
    assert arrays(run) == arrays(finished.run)
    assert "plan.json" in files(run)


def test_it_says_done_at_once(finished):
    before = (finished.run / "events.jsonl").read_bytes()
    environment = {**finished.commands.environment, "PYTHONPROFILEIMPORTTIME": "1"}
    again = Commands(finished.commands.folder, environment, finished.commands.corpus).train()
    assert again.code == 0
    imported = {line.rpartition("|")[2].strip() for line in again.err.splitlines()}
    assert "lmjax.config" in imported
    assert not {"jax", "flax", "orbax", "grain", "numpy"} & imported
    assert "done: step 60, validation loss" in again.err
    assert "lmjax.generate --run run" in again.err
    assert (finished.run / "events.jsonl").read_bytes() == before


def test_changed_settings_are_refused_with_both_values(finished):
    ended = finished.commands.train("--optimizer.learning-rate", "0.0125", "--seed", "7")
    assert (ended.code, ended.out) == (78, "")
    for text in ("optimizer.learning_rate", "0.02", "0.0125", "seed", "other settings"):
        assert text in ended.err


def test_a_damaged_shard_is_named(commands, corpus):
    damaged = shutil.copytree(corpus, commands.folder / "damaged")
    shard = damaged / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    ended = Commands(commands.folder, commands.environment, damaged).train()
    assert (ended.code, ended.out) == (65, "")
    assert str(shard) in ended.err and "Traceback" not in ended.err
    assert not (commands.folder / "run" / "checkpoints").exists()


def test_damaged_checkpoints_are_passed_over(finished, commands):
    run = shutil.copytree(finished.run, commands.folder / "run")
    (run / "events.jsonl").write_text("")  # as if killed before it said that it was done
    (run / "checkpoints" / "60" / "numbers.json").write_text("{}")
    ended = commands.train()
    assert ended.code == 0, ended.err
    assert "passed over: " in ended.err and "numbers.json: expected SHA-256" in ended.err
    assert "resumed at step 55" in ended.err
    assert (run / "metrics.jsonl").read_bytes() == (finished.run / "metrics.jsonl").read_bytes()
    assert arrays(run) == arrays(finished.run)
    for step in checkpoint.steps(run / "checkpoints"):
        (run / "checkpoints" / str(step) / "numbers.json").write_text("{}")
    (run / "events.jsonl").write_text("")
    ended = commands.train()
    assert (ended.code, ended.out) == (65, "")
    assert "no checkpoint can be used; nothing was deleted" in ended.err


def test_an_evaluation_is_given_up_for_a_signal_and_made_by_the_next_start(commands):
    run, slow = commands.folder / "run", ["--evaluation.rows", "1", "--evaluation.max-rows", "2000"]
    whole = commands.train(*slow, "--run", "whole")
    assert whole.code == 0, whole.err
    process = commands.start_training(*slow)
    wait_for(run / "metrics.jsonl", process, lines=20)  # those of the steps; the evaluation begins
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert ended.code == 75, ended.err
    assert stopped_at(run) == 20
    assert all("val_loss" not in line for line in journal.read(run / "metrics.jsonl"))
    ended = commands.train(*slow)
    assert ended.code == 0, ended.err
    metrics = (commands.folder / "whole" / "metrics.jsonl").read_bytes()
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert arrays(run) == arrays(commands.folder / "whole")
