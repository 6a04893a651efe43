"""The README's commands and programs, run as they stand there, on a model small enough."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    "--model.depth 2 --model.width 32 --model.heads 2 --model.length 32 --batch.rows 4 "
    "--evaluation.max-rows 8 --sample.max-tokens 4"
).split()
INSTALLING = "pip install"  # those two lines are what continuous integration runs


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if not line.startswith(INSTALLING)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipes, some text, and the quickstart trained small."""
    place = tmp_path_factory.mktemp("readme")
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "texts").mkdir()
    sources = sorted((ROOT / "lmjax").rglob("*.py"))
    for number in range(30):
        text = "\n\n".join(path.read_text() for path in sources[number:])
        (place / "texts" / f"{number}.txt").write_text(text)
    run("python -m lmjax.train --config configs/quickstart.py --budget 2steps", place)
    return place


def run(command: str, place: Path) -> None:
    small = shlex.join(SMALL)
    command = re.sub(r"(lmjax\.train --config [^\s;]+)", rf"\1 {small}", command)
    command = command.replace("--budget 20m", "--budget 2steps")
    command = command.replace("quickstart.py;", "quickstart.py --budget 2steps;")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=place,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("command", commands())
def test_command(command: str, place: Path) -> None:
    run(command, place)


@pytest.mark.parametrize("program", blocks("python"))
def test_program(program: str, place: Path) -> None:
    program = program.replace('"200steps"', f'"2steps", *{SMALL!r}')
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=place, check=True)


def test_first_commands_are_those_of_continuous_integration() -> None:
    script = (ROOT / ".ci" / "run").read_text().replace("pip install -q", "pip install")
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    installing = [line for line in lines if line.startswith(INSTALLING)]
    assert len(installing) == 2
    assert all(line in script for line in installing)
