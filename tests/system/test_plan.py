"""`lmjax.plan` as a command: with and without XLA's compiler for GPUs."""

import json
import os
import subprocess
import sys

import pytest

from lmjax.runtime import compiling

RECIPE = '''"""A small model that cuDNN's attention takes."""

from lmjax.config import BatchConfig, Config, TransformerConfig


def get_config():
    return Config(
        model=TransformerConfig(vocab_size=512, length=64, depth=2, width=128, heads=2),
        batch=BatchConfig(rows=8),
    )
'''


def plan(folder, *arguments):
    (folder / "small.py").write_text(RECIPE)
    return subprocess.run(
        [sys.executable, "-m", "lmjax.plan", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120", "XLA_FLAGS": ""},  # as users compile
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_formulas_need_nothing_installed(tmp_path):
    ended = plan(tmp_path, "--config", "small.py", "--device", "4090", "--budget", "2h",
                 "--formulas", "--out", "plan.json")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert (
        "by formula" in ended.stderr and "--batch.micro-rows 8 --model.remat none" in ended.stderr
    )
    facts = json.loads((tmp_path / "plan.json").read_text())
    assert facts["device"] == "4090" and not facts["compiled"] and facts["forecast"]["hours"] == 2


def test_an_unknown_device_is_a_bad_configuration(tmp_path):
    ended = plan(tmp_path, "--config", "small.py", "--device", "h1000")
    assert ended.returncode == 78 and "expected one of h100" in ended.stderr


@pytest.mark.skipif(
    not compiling.available(), reason='needs XLA\'s compiler for GPUs: pip install "lmjax[cuda12]"'
)
def test_the_real_step_is_compiled_for_a_card_that_is_not_there(tmp_path):
    ended = plan(tmp_path, "--config", "small.py", "--device", "h100", "--out", "plan.json")
    assert ended.returncode == 0, ended.stderr
    facts = json.loads((tmp_path / "plan.json").read_text())
    assert facts["compiled"] and facts["path"] == "cudnn attention"
    assert facts["step_seconds"]["attention"] > 0
    assert facts["peak_bytes"] > facts["state_bytes"] > 8 * facts["parameters"]
