"""Generation against what memory allows: every token at batch 1 reads all weights once.

    python -m tools.bench.generate --json

The model is a recipe's with fresh weights (configs/gpt2.py, 124M); tokens/s of decoding, prefill
and compilation left out. The bound, and the peer, is the weights' bytes in the compute type over
the bandwidth of a copy measured in the same run.
"""

import json
import math
import statistics
import time
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro
from rich.table import Table

from lmjax.config import load_config
from lmjax.models.build import build
from lmjax.runtime import console, device, measuring, memory
from lmjax.runtime.generation import generate

RECIPES = Path(__file__).parents[2] / "configs"


def main(
    config: Path = RECIPES / "gpt2.py",
    peer: Literal["bandwidth"] = "bandwidth",
    tokens: int = 64,
    repeats: int = 3,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Decode at batch 1 and 8."""
    memory.keep()  # as the command does
    recipe = load_config(config, ["--model.attention", "xla"])
    assert recipe.model.vocab_size is not None
    model = build(recipe.model, device.platform())
    params = jax.jit(model.init)(jax.random.key(0))
    read = sum(math.prod(p.shape) for p in jax.tree.leaves(params)) * model.dtype.itemsize
    prompt = list(range(1, 17))

    def decode(batch: int) -> float:
        """Tokens a second, all rows together; the first chunk is compiled and warm."""
        chunks = generate(
            model,
            params,
            [prompt] * batch,
            vocab_size=model.V,
            max_tokens=16 + tokens,
            temperature=0.0,
        )
        next(chunks)
        start = time.perf_counter()
        made = sum(np.size(chunk) for chunk in chunks)
        return made / (time.perf_counter() - start)

    for batch in (1, 8):
        decode(batch)
    bound, one, eight = [], [], []
    for _ in range(repeats):
        bound.append(measuring.bandwidth(device.platform()) / read)
        one.append(decode(1))
        eight.append(decode(8))
    ratios = [a / b for a, b in zip(one, bound, strict=True)]
    ratio, more = statistics.median(ratios), statistics.median(eight) / statistics.median(one)
    table = Table("", "tokens/s", "")
    table.add_row("weights read once a token", f"{statistics.median(bound):.1f}", "the bound")
    table.add_row("batch 1", f"{statistics.median(one):.1f}", f"{ratio:.0%} of it")
    table.add_row("batch 8", f"{statistics.median(eight):.1f}", f"{more:.1f} x batch 1")
    console.terminal.print(table)
    if as_json:
        facts = {"ratio": ratio, "ratios": ratios, "batch_8_over_1": more}
        print(json.dumps({"peer": peer, **facts, "one": one, "eight": eight, "bound": bound}))


if __name__ == "__main__":
    tyro.cli(main)
