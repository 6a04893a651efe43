"""From the command to the first step: a first start, and a second that finds compiled programs.

    python -m tools.bench.startup --config configs/quickstart.py --json

Each start is `python -m lmjax.train` in a process of its own, timed from outside until its first
step stands in metrics.jsonl; the compilation cache is a new folder. The peer is the first start.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from lmjax.config import load_config
from lmjax.runtime import console
from lmjax.text.corpus import prepare

RECIPES = Path(__file__).parents[2] / "configs"


def start(config: Path, data: Path, run: Path, cache: Path) -> float:
    """Seconds to the first step. Raises SystemExit where it does not come."""
    command = [sys.executable, "-m", "lmjax.train", "--config", str(config), "--data", str(data)]
    command += ["--run", str(run), "--budget", "2steps", "--evaluation.max-rows", "1"]
    metrics = run / "metrics.jsonl"
    begun = time.perf_counter()
    child = subprocess.Popen(
        [*command, "--sample.prompts"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (metrics.exists() and metrics.stat().st_size):
        if child.poll() is not None:
            raise SystemExit(f"{config}: no step came: {child.communicate()[1]}")
        time.sleep(0.005)
    seconds = time.perf_counter() - begun
    child.communicate()
    return seconds


def main(
    config: Path = RECIPES / "quickstart.py",
    data: Path = Path("corpora/python-docs"),
    peer: Literal["first"] = "first",
    again: int = 3,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Start a recipe once, then `again` times."""
    prepare(load_config(config).text, data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = [
            start(config, data, folder / f"run{i}", folder / "cache") for i in range(1 + again)
        ]
    table = Table("start", "seconds to the first step")
    for i, value in enumerate(seconds):
        table.add_row(peer if i == 0 else f"again, {i}", f"{value:.2f}")
    console.terminal.print(table)
    if as_json:
        ratios = [seconds[0] / later for later in seconds[1:]]
        middle = sorted(ratios)[len(ratios) // 2]
        print(json.dumps({"peer": peer, "ratio": middle, "ratios": ratios, "seconds": seconds}))


if __name__ == "__main__":
    tyro.cli(main)
