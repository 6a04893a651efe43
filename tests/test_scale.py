"""The files of docs/scale: what they give to lmjax.train is what it takes."""

import shlex
import subprocess
from pathlib import Path

import pytest

from lmjax.config import load_config

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docs" / "scale").iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_command_is_one_that_lmjax_takes(path):
    lines = [line for line in path.read_text().splitlines() if "python -m lmjax.train" in line]
    (command,) = (
        line[line.index("--config") :].replace("$JOB_COMPLETION_INDEX", "7") for line in lines
    )
    _, recipe, *settings = shlex.split(command)
    config = load_config(ROOT / recipe, settings)
    assert config.mesh.devices == 64
    assert config.batch.rows // config.mesh.row_shares == 8
    assert config.processes.count in ("auto", 8)


def test_the_script_is_bash():
    subprocess.run(["/bin/bash", "-n", str(ROOT / "docs/scale/train.slurm")], check=True)
