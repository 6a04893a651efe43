"""Whether a budget in time ends on time: with a core burnt from half-way on, and with kills.

    python -m tools.bench.deadline --budget 180 --kills 3

The recipe is trained twice, each in processes of its own: once while another process takes a core
from half-way on, once killed (SIGKILL) and started again at equal distances. The seconds are those
of this tool's clock, from the start of each command to its end.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from lmjax.runtime import checkpoint, journal
from tools.bench.training import RECIPES


class Ended(NamedTuple):
    """Seconds this tool saw and those the run counted, and how the run was left."""

    seconds: float
    counted: float
    steps: int
    learning_rate: float
    sealed: bool


def race_the_clock(
    recipe: Path, data: Path, budget: float, burn: bool, kills: int, seed: int
) -> Ended:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as burning:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "lmjax.train", "--config", str(recipe)]
        command += ["--data", str(data), "--run", str(run), "--budget", f"{budget}s"]
        command += ["--seed", str(seed), "--checkpoint.every", f"{budget / 12}s"]
        command += ["--sample.prompts"]
        seconds = 0.0
        marks = [budget * (n + 1) / (kills + 1) for n in range(kills)]
        marks += [budget / 2] if burn else []
        for until in [*marks, None]:
            begun = time.monotonic()
            child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                child.wait(None if until is None else max(0.0, until - seconds))
            except subprocess.TimeoutExpired:
                if burn:
                    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                    burning.callback(burner.kill)
                    child.wait()
                else:
                    child.kill()
                    child.wait()
            seconds += time.monotonic() - begun
            if child.returncode == 0:
                break
        if child.returncode != 0:
            raise SystemExit(f"{recipe}: expected 0 from training, found {child.returncode}")
        done = journal.read(run / "events.jsonl")[-1]
        last = [e for e in journal.read(run / "metrics.jsonl") if "lr" in e][-1]
        saved, _ = checkpoint.newest(run / "checkpoints")
        sealed = saved is not None and saved.step == done["step"]
        return Ended(seconds, done["elapsed"], done["step"], last["lr"], sealed)


def main(
    data: Path = Path("corpora/python-docs"),
    recipe: Path = RECIPES / "quickstart.py",
    budget: float = 180.0,
    kills: int = 3,
    seed: int = 0,
    json_line: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    print(f"{'':24}{'seconds':>9}{'counted':>9}{'budget':>8}{'steps':>8}{'last lr':>10}  sealed")
    rows = {}
    for name, burn, deaths in (("a core burnt", True, 0), (f"killed {kills} times", False, kills)):
        row = rows[name] = race_the_clock(recipe, data, budget, burn, deaths, seed)
        print(
            f"{name:24}{row.seconds:9.2f}{row.counted:9.2f}{budget:8.0f}{row.steps:8,}"
            f"{row.learning_rate:10.2g}  {row.sealed}",
            flush=True,
        )
    if json_line:
        print(json.dumps({name: row._asdict() for name, row in rows.items()}))


if __name__ == "__main__":
    tyro.cli(main)
