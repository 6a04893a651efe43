"""The train step against a peer's: GPT-2's architecture, the same sizes, by turns.

    python -m tools.bench.step --peer torch --json
    python -m tools.bench.step --peer plain --depth 12 --width 768 --length 1024 --rows 32

Each round takes some steps of ours and some of the peer's; the ratio is the median over rounds of
our tokens/s over theirs. Each side has a process of its own, since threads that wait for work spin
beside the other's, and runs as its user runs it: only lmjax tells the C library to keep memory. On
a CPU float32 and two threads, on a GPU bfloat16. `torch` is torch.compile (extra `[bench]`),
`plain` is JAX and Linen as one writes them first.
"""

import dataclasses
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Literal

# Two processes share a GPU here.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.table import Table

from lmjax.config import Config, TransformerConfig, load_recipe
from lmjax.data.loader import Batch
from lmjax.models.build import build
from lmjax.runtime import blueprint, console, device, measuring, memory

RECIPE = Path(__file__).parents[2] / "configs" / "gpt2.py"
PEERS = {"torch": "tools.bench.torch_gpt", "plain": "tools.bench.plain_jax"}
Take = Callable[[int], float]


def ours(config: Config, tokens_BS: np.ndarray) -> Take:
    """As the peers' `stepper`: a function that takes steps, waits and returns the loss."""
    drawn = blueprint.draw(config, load_recipe(RECIPE).make_optimizer, device.platform())
    compiled, (state, _, half) = measuring.ready(drawn, seed=0)
    batch = Batch(jax.device_put(tokens_BS[None]))

    def take(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = compiled(state, batch, half)
        return float(metrics.loss)

    return take


def _serve(
    side: str, config: Config, tokens_BS: np.ndarray, threads: int, pipe: Connection
) -> None:
    """Take as many steps as the pipe says, and answer with the seconds of one, until it says 0."""
    if side == "lmjax":
        memory.keep()  # as training does
        take = ours(config, tokens_BS)
    else:
        take = import_module(PEERS[side]).stepper(config, tokens_BS, threads)
    while steps := pipe.recv():
        start = time.perf_counter()
        take(steps)
        pipe.send((time.perf_counter() - start) / steps)


def main(
    peer: Literal["torch", "plain"] = "torch",
    depth: int = 6,
    width: int = 384,
    heads: int = 6,
    length: int = 256,
    rows: int = 8,
    vocab_size: int = 4096,
    steps: int = 3,
    rounds: int = 8,
    threads: int = 2,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Compare at these sizes; `steps` of each side a round."""
    config = load_recipe(RECIPE).config
    assert isinstance(config.model, TransformerConfig)
    model = dataclasses.replace(
        config.model, vocab_size=vocab_size, depth=depth, width=width, heads=heads, length=length
    )
    batch = dataclasses.replace(config.batch, rows=rows, micro_rows=rows)
    config = dataclasses.replace(config, model=model, batch=batch)
    shape = rows, length + 1
    tokens_BS = np.random.default_rng(0).integers(0, vocab_size, shape, dtype=np.int32)
    spawn = multiprocessing.get_context("spawn")
    sides: dict[str, Connection] = {}
    processes = []
    for name in ("lmjax", peer):
        sides[name], end = spawn.Pipe()
        given = name, config, tokens_BS, threads, end
        processes.append(spawn.Process(target=_serve, args=given, daemon=True))
        processes[-1].start()
        end.close()

    def take(name: str, steps: int) -> float:
        sides[name].send(steps)
        taken: float = sides[name].recv()
        return taken

    for name in sides:  # compiled and warm
        take(name, 2)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in sorted(sides, reverse=turn % 2 == 1):
            seconds[name].append(take(name, steps))
    for pipe, process in zip(sides.values(), processes, strict=True):
        pipe.send(0)
        process.join()
    ratios = [b / a for a, b in zip(seconds["lmjax"], seconds[peer], strict=True)]
    ratio = statistics.median(ratios)
    platform = device.platform()
    flops = build(config.model, platform).flops_per_token() * rows * length
    best = device.product_flops(jnp.bfloat16 if platform == "gpu" else jnp.float32)
    table = Table("", "ms a step", "tokens/s", "of the best product's rate")
    for name, found in seconds.items():
        middle = statistics.median(found)
        table.add_row(
            name,
            f"{1e3 * middle:.1f}",
            f"{rows * length / middle:,.0f}",
            f"{flops / middle / best:.1%}",
        )
    console.say(
        f"{device.describe().name}: {depth} x {width}, {rows} x {length} tokens, V {vocab_size}"
    )
    console.terminal.print(table)
    console.say(f"lmjax / {peer}: {ratio:.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
    if as_json:
        facts = {"ratio": ratio, "ratios": ratios, "seconds": seconds, "product_flops": best}
        print(json.dumps({"peer": peer, **facts}))


if __name__ == "__main__":
    tyro.cli(main)
