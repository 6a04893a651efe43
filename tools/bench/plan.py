"""The planner's step against real ones, for each recipe, on the device that is attached.

    python -m tools.bench.plan --recipes quickstart lstm --repeats 3 --json

Every repeat times real steps on random tokens, then the device's rates and each product of the
compiled step by itself; the error is that of the repeat in the middle, since machines are noisy.
Ends with 1 where an error is beyond 20%. The last line with --json is one object.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from lmjax.config import load_recipe
from lmjax.runtime import console, device, memory, planning

CONFIGS = Path(__file__).parents[2] / "configs"
BAR = 0.2


def main(
    recipes: tuple[str, ...] = ("quickstart", "lstm", "nplm", "bert", "gpt2_small", "modern"),
    repeats: int = 3,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Compare recipes of configs/ by name."""
    memory.keep()  # as training does
    table = Table("recipe", "predicted ms", "measured ms", "error", "of all repeats")
    rows = []
    for name in recipes:
        recipe = load_recipe(CONFIGS / f"{name}.py")
        found = sorted((planning.compare(recipe) for _ in range(repeats)), key=lambda c: c.error)
        middle = found[len(found) // 2]
        rows.append({"recipe": name, "error": middle.error, **middle._asdict()})
        table.add_row(
            name,
            f"{1000 * middle.predicted:.1f}",
            f"{1000 * middle.measured:.1f}",
            f"{middle.error:+.0%}",
            " ".join(f"{one.error:+.0%}" for one in found),
        )
    here = device.describe()
    console.say(f"{here.name}, {here.peak_flops / 1e12:.3g} TFLOP/s {here.peak_source}")
    console.terminal.print(table)
    if as_json:
        print(json.dumps({"device": here.name, "rows": rows}))
    sys.exit(any(abs(row["error"]) > BAR for row in rows))


if __name__ == "__main__":
    tyro.cli(main)
