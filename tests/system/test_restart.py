"""What docs/restart.md shows: its loop around real runs and around each exit code, its scripts."""

import configparser
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import wait_for

from lmjax.config import load_config
from lmjax.runtime import journal

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "restart.md").read_text()
LOOP, SLURM = re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
(UNIT,) = re.findall(r"^```ini\n(.*?)^```", PAGE, re.M | re.S)
CODES = dict(re.findall(r"^\| (\d+) \| .* \| (yes|no)", PAGE, re.M))
AT_ONCE = re.sub(r"sleep \$\(\(.*?\)\)", "sleep 0", LOOP)


def start(loop: str, folder: Path, environment: dict[str, str], python: Path):
    path = f"{python.parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["/bin/bash", "-c", loop],
        cwd=folder,
        env={**environment, "PATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_loop_goes_on_after_a_signal(commands, finished):
    given = shlex.join(commands.train_arguments())
    loop = AT_ONCE.replace("--config configs/quickstart.py", given)
    loop = loop.replace("runs/quickstart", "run")
    assert loop.count("run/") == 1 and given in loop
    process = start(loop, commands.folder, commands.environment, Path(sys.executable))
    run = commands.folder / "run"
    wait_for(run / "metrics.jsonl", process, lines=8)
    os.kill(json.loads((run / "lock").read_text())["pid"], signal.SIGTERM)
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    kinds = [e["event"] for e in journal.read(run / "events.jsonl")]
    assert kinds == ["start", "stop", "resume", "done"]
    assert (run / "metrics.jsonl").read_bytes() == (finished.run / "metrics.jsonl").read_bytes()


@pytest.fixture
def pretend(tmp_path):
    """`pretend(code, saving)`: the loop around a command that only ends with a code, and saves
    something until it was started `saving` times; its own code, and how often it was started."""
    (tmp_path / "runs/quickstart/checkpoints").mkdir(parents=True)
    python, starts = tmp_path / "bin" / "python", tmp_path / "starts"
    python.parent.mkdir()

    def run(code: int, saving: int = 0) -> tuple[int, int]:
        python.write_text(
            f"#!/bin/bash\necho >> {starts}\nn=$(wc -l < {starts})\n"
            f"[ $n -le {saving} ] && mkdir runs/quickstart/checkpoints/$n\n"
            + (f"kill -{code - 128} $$" if code > 128 else f"exit {code}")
        )
        python.chmod(0o755)
        process = start(AT_ONCE, tmp_path, {}, python)
        process.communicate(timeout=60)
        return process.returncode, len(starts.read_text().splitlines())

    return run


@pytest.mark.parametrize("code", [int(code) for code in CODES if code != "75"])
def test_the_loop_ends_where_an_error_would_come_again(code, pretend):
    assert CODES[str(code)] == "no"
    assert pretend(code) == (code, 1)


@pytest.mark.parametrize("code", [75, 137, 143])
def test_the_loop_gives_up_where_nothing_more_is_saved(code, pretend):
    assert pretend(code) == (code, 5)


def test_what_is_saved_is_worth_going_on(pretend):
    assert pretend(75, saving=12) == (75, 12 + 5)


def test_the_loop_waits_longer_each_time():
    (wait,) = re.findall(r"sleep (\$\(\(.*?\)\))", LOOP)
    told = subprocess.run(
        ["/bin/bash", "-c", f"for tries in 0 1 4; do echo {wait}; done"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["10", "30", "90"]


@pytest.mark.parametrize("script", [LOOP, SLURM, UNIT], ids=["loop", "slurm", "unit"])
def test_the_command_is_one_that_lmjax_takes(script):
    (command,) = re.findall(r"python -m lmjax\.train (--config [^;\n]*)", script)
    _, recipe, *settings = shlex.split(command)
    load_config(ROOT / recipe, settings)
    if script is not UNIT:
        subprocess.run(["/bin/bash", "-n"], input=script, text=True, check=True)


def test_the_unit_holds_the_codes_of_the_table():
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment]
    unit.read_string(UNIT)
    never = set(unit["Service"]["RestartPreventExitStatus"].split())
    assert never == {code for code, again in CODES.items() if again == "no"} - {"0"}
