"""A recipe trained in a process of its own, and what that cost and reached."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lmjax.runtime import journal

RECIPES = Path(__file__).parents[2] / "configs"


class Trained(NamedTuple):
    """Loss and bits per byte of the whole validation set; seconds of data and steps alone."""

    parameters: int
    tokens: int
    seconds: float
    loss: float
    bits_per_byte: float
    tokens_per_second: float
    """The median over the run's log."""
    peak_mebibytes: float


def train(recipe: Path, data: Path, words: Sequence[str]) -> Trained:
    """Run `python -m lmjax.train` with the overrides `words`, evaluating at the end alone.

    Raises SystemExit where it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "lmjax.train", "--config", str(recipe), *words]
        command += ["--data", str(data), "--run", str(run), "--evaluation.every", "100%"]
        child = subprocess.Popen([*command, "--sample.prompts"], stdout=sys.stderr)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{recipe}: expected 0 from training, found {child.returncode}")
        metrics, timing = (journal.read(run / f"{name}.jsonl") for name in ("metrics", "timing"))
        result = [e for e in metrics if "val_loss" in e][-1]
        ledger = timing[-1]["ledger"]
        return Trained(
            json.loads((run / "plan.json").read_text())["parameters"],
            [e for e in metrics if "tokens" in e][-1]["tokens"],
            ledger["data"] + ledger["step"],
            result["val_loss"],
            result["val_bits_per_byte"],
            statistics.median(e["tokens_per_second"] for e in timing if "tokens_per_second" in e),
            usage.ru_maxrss / 1024,
        )
