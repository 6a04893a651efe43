"""Every small recipe trained for the same tokens of the same corpus: one table.

    python -m tools.bench.models --steps 400

Each trains in a process of its own, so that its peak memory is its own. Bits per byte are of the
whole validation set. `speedrun` is measured with each of its extras left out, and with none.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from lmjax.runtime import journal

RECIPES = Path(__file__).parents[2] / "configs"
SMALL = ("nplm", "lstm", "gpt1", "gpt2_small", "llama", "qwen3", "modern", "speedrun")
EXTRAS = {
    "value embeddings": ["--model.no-value-embeddings"],
    "layer scalars": ["--model.no-layer-scalars"],
    "smear": ["--model.no-smear"],
    "backout": ["--model.no-backout"],
    "windows": ["--model.window-pattern", "L"],
}


class Variant(NamedTuple):
    """A recipe, and what is overridden in it."""

    recipe: str
    overrides: list[str]


class Row(NamedTuple):
    """What training a variant cost and reached; speed is the median of the run's log."""

    name: str
    parameters: int
    bits_per_byte: float
    tokens_per_second: float
    peak_mebibytes: float


def variants() -> dict[str, Variant]:
    """The recipes, and `speedrun` without its extras."""
    without = {f"speedrun - {name}": Variant("speedrun", words) for name, words in EXTRAS.items()}
    every = [word for words in EXTRAS.values() for word in words]
    bare = {"speedrun - all": Variant("speedrun", every)}
    return {name: Variant(name, []) for name in SMALL} | without | bare


def measure(name: str, variant: Variant, data: Path, steps: int, seed: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = ["--config", str(RECIPES / f"{variant.recipe}.py"), *variant.overrides]
        words += ["--data", str(data), "--run", str(run), "--budget", f"{steps}steps"]
        words += ["--seed", str(seed), "--evaluation.every", "100%"]
        command = [sys.executable, "-m", "lmjax.train", *words, "--sample.prompts"]
        child = subprocess.Popen(command, stdout=sys.stderr)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{name}: expected training to end with 0, found {child.returncode}")
        results = [e for e in journal.read(run / "metrics.jsonl") if "val_loss" in e]
        speeds = [
            e["tokens_per_second"]
            for e in journal.read(run / "timing.jsonl")
            if "tokens_per_second" in e
        ]
        return Row(
            name,
            _parameters(run / "config.json"),
            results[-1]["val_bits_per_byte"],
            statistics.median(speeds),
            usage.ru_maxrss / 1024,
        )


def _parameters(config: Path) -> int:
    import jax

    from lmjax.config import from_json
    from lmjax.models.build import build

    model = build(from_json(config.read_text()).model, "cpu")
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def main(
    data: Path = Path("corpora/python-docs"),
    steps: int = 400,
    only: tuple[str, ...] = (),
    seed: int = 0,
    json_line: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    known = variants()
    for name in only:
        if name not in known:
            raise SystemExit(f"--only: expected one of {', '.join(known)}; found {name!r}")
    print(f"{'model':28}{'parameters':>12}{'bits/byte':>11}{'tokens/s':>10}{'peak MiB':>10}")
    rows = []
    for name in only or known:
        row = measure(name, known[name], data, steps, seed)
        rows.append(row)
        print(
            f"{row.name:28}{row.parameters:12,}{row.bits_per_byte:11.4f}"
            f"{row.tokens_per_second:10,.0f}{row.peak_mebibytes:10,.0f}",
            flush=True,
        )
    if json_line:
        print(json.dumps({"steps": steps, "seed": seed, "rows": [row._asdict() for row in rows]}))


if __name__ == "__main__":
    tyro.cli(main)
