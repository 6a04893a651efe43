"""Every small recipe trained for the same tokens of the same corpus: one table.

    python -m tools.bench.models --steps 300

Each trains in a process of its own, so that its peak memory is its own. Bits per byte are of the
whole validation set. `speedrun` is measured with each of its extras left out, with none, and with
the scalars of each layer.
"""

import json
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from tools.bench.training import RECIPES, train

SMALL = ("nplm", "lstm", "gpt1", "gpt2_small", "llama", "qwen3", "modern", "speedrun")
EXTRAS = {
    "value embeddings": ["--model.no-value-embeddings"],
    "smear": ["--model.no-smear"],
    "backout": ["--model.no-backout"],
    "windows": ["--model.window-pattern", "L", "--ramp.window"],
    "window warm-up": ["--ramp.window"],
}


class Variant(NamedTuple):
    """A recipe, and what is overridden in it."""

    recipe: str
    overrides: list[str]


def variants() -> dict[str, Variant]:
    """The recipes, and `speedrun` with other extras."""
    without = {f"speedrun - {name}": Variant("speedrun", words) for name, words in EXTRAS.items()}
    every = [word for words in EXTRAS.values() for word in words]
    bare = {"speedrun - all": Variant("speedrun", every)}
    scalars = {"speedrun + layer scalars": Variant("speedrun", ["--model.layer-scalars"])}
    return {name: Variant(name, []) for name in SMALL} | without | bare | scalars


def main(
    data: Path = Path("corpora/python-docs"),
    steps: int = 300,
    only: tuple[str, ...] = (),
    seed: int = 0,
    json_line: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    known = variants()
    for name in only:
        if name not in known:
            raise SystemExit(f"--only: expected one of {', '.join(known)}; found {name!r}")
    print(f"{'model':28}{'parameters':>12}{'bits/byte':>11}{'tokens/s':>10}{'peak MiB':>10}")
    rows = {}
    for name in only or known:
        recipe, overrides = known[name]
        words = [*overrides, "--budget", f"{steps}steps", "--seed", str(seed)]
        row = rows[name] = train(RECIPES / f"{recipe}.py", data, words)
        print(
            f"{name:28}{row.parameters:12,}{row.bits_per_byte:11.4f}"
            f"{row.tokens_per_second:10,.0f}{row.peak_mebibytes:10,.0f}",
            flush=True,
        )
    if json_line:
        table = {name: row._asdict() for name, row in rows.items()}
        print(json.dumps({"steps": steps, "seed": seed, "rows": table}))


if __name__ == "__main__":
    tyro.cli(main)
