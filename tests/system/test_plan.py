"""`lmjax.plan` as a command: with and without XLA's compiler for GPUs."""

import json
import os
import subprocess
import sys

import pytest

from lmjax.plan import main
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


def test_a_plan_takes_the_settings_that_train_takes(tmp_path):
    ended = plan(tmp_path, "--config", "small.py", "--device", "4090", "--formulas",
                 "--batch.rows=64", "--batch.micro-rows", "16", "--model.depth", "3",
                 "--model.remat", "attention", "--budget", "100steps",
                 "--out", "plan.json")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "--batch.micro-rows 16 --model.remat attention" in ended.stderr
    facts = json.loads((tmp_path / "plan.json").read_text())
    assert (facts["batch.micro_rows"], facts["model.remat"]) == (16, "attention")
    assert facts["forecast"]["tokens"] == 100 * 64 * 64


def test_an_unknown_setting_is_a_bad_configuration(tmp_path):
    ended = plan(tmp_path, "--config", "small.py", "--device", "4090", "--model.depht", "3")
    assert ended.returncode == 78 and "--model.depth INT" in ended.stderr


def test_the_attached_device_is_planned_with_the_choice_that_train_makes(tmp_path, capsys):
    (tmp_path / "small.py").write_text(RECIPE)
    out = tmp_path / "plan.json"
    main(["--config", str(tmp_path / "small.py"), "--batch.micro-rows", "auto",
          "--model.depth", "1", "--out", str(out)])  # fmt: skip
    assert "auto: 8 of 8 rows at a time, remat none" in capsys.readouterr().err
    facts = json.loads(out.read_text())
    assert facts["auto"]["micro_rows"] == 8 and facts["auto"]["remat"] == "none"
    assert facts["measured"]["step_seconds"] > 0 and facts["predicted"]["step_seconds"] > 0


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
