"""The first minutes on a GPU, well spent: what of lmjax's design only a GPU can confirm.

    python -m tools.bench.gpu_first_run --out first_run.json --minutes 8 --json

GPT-2 (configs/gpt2.py, 124M) on random tokens, 32 rows of 1,024, bfloat16, AdamW. Programs are
compiled in parallel, then measured one by one, in the order of the memory they are to take, so that
the growing peak is each one's own. What fails is told in its row and the rest goes on; results are
written after each. `--small` is a model that a CPU can run.

Shapes: B rows, T time, D width, V vocabulary.
"""

import concurrent.futures
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.table import Table

from lmjax.config import Config, Recipe, Remat, TransformerConfig, load_recipe
from lmjax.data.loader import Batch
from lmjax.learning import optimizers
from lmjax.learning.objective import Sums
from lmjax.learning.step import TrainStep, make_train_step
from lmjax.models.model import Trained
from lmjax.runtime import blueprint, compiling, console, device, devices, measuring

RECIPE = Path(__file__).parents[2] / "configs" / "gpt2.py"
RUNGS: tuple[Remat, ...] = ("full", "attention", "attention+up", "attention+qkv+up", "none")
STEPS, ROUNDS = 6, 3


class Variant(NamedTuple):
    """One way to run the step."""

    name: str
    config: Config
    options: dict[str, Any] = {}  # noqa: RUF012  of XLA, read only
    plain_head: bool = False


def variants(base: Config) -> list[Variant]:
    """By the memory they are to take."""

    def model(**changes: Any) -> Config:
        return dataclasses.replace(base, model=dataclasses.replace(base.model, **changes))

    plain = model(remat="none")
    return [
        *(Variant(f"remat {rung}", model(remat=rung)) for rung in RUNGS),
        Variant("no Triton products", plain, {"xla_gpu_enable_triton_gemm": False}),
        Variant("deterministic", plain, {"xla_gpu_deterministic_ops": True}),
        Variant("no op that varies", plain, {"xla_gpu_exclude_nondeterministic_ops": True}),
        Variant("layers as a scan", model(remat="none", unroll=1)),
        Variant("autodiff through all logits", plain, plain_head=True),
        Variant("XLA's attention", model(remat="none", attention="xla")),
    ]


def all_logits(model: Trained, params: Any, batch: Batch, key: jax.Array) -> Sums:
    """What one would write first: every logit in float32, and autodiff."""
    tokens_BS = jnp.asarray(batch.tokens)
    x_BTD = model.hidden(params, tokens_BS[:, :-1], key=key)
    logits_BTV = model.readout(params, x_BTD).logits()
    lse_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, tokens_BS[:, 1:, None], axis=-1)[..., 0]
    return Sums((lse_BT - target_BT).sum(), jnp.asarray(lse_BT.size, jnp.float32))


def seconds(run: Callable[[], Any], calls: int) -> list[float]:
    """Of one call, in each of a few rounds of calls that are waited for together."""
    jax.block_until_ready(run())
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            out = run()
        jax.block_until_ready(out)
        found.append((time.perf_counter() - start) / calls)
    return found


def step_of(variant: Variant, recipe: Recipe, platform: str) -> tuple[TrainStep, Any]:
    """The step and its shapes."""
    drawn = blueprint.draw(variant.config, recipe.make_optimizer, platform)
    if not variant.plain_head:
        return drawn.train_step, drawn.shapes
    assert recipe.make_optimizer is not None
    tx, rate = recipe.make_optimizer(variant.config), optimizers.learning_rate(variant.config)
    return make_train_step(drawn.model, all_logits, tx, rate, variant.config.seed), drawn.shapes


def compiled(variant: Variant, recipe: Recipe, platform: str) -> tuple[Any, float]:
    start = time.perf_counter()
    step, shapes = step_of(variant, recipe, platform)
    lowered = jax.jit(step, donate_argnums=0).lower(*shapes)
    return lowered.compile(compiler_options=variant.options), time.perf_counter() - start


def foreseen(base: list[Variant]) -> dict[str, int]:
    """Peaks as `lmjax.plan` compiles them for this card without using it; none where it cannot."""
    card = devices.named(jax.devices()[0].device_kind)
    if card is None or not compiling.available():
        return {}
    found = {}
    with compiling.Compiler(RECIPE) as compiler:
        for variant in base:
            try:
                found[variant.name] = compiler.compile(variant.config, card).peak
            except Exception as error:  # the rest is worth having without it
                console.say(f"{variant.name}: not foreseen: {error}"[:300])
                break
    return found


def pieces(small: bool) -> dict[str, float]:
    """What the card's own operations reach: products, a copy, the embedding's gradient."""
    V, D, R = (512, 64, 1024) if small else (50_304, 768, 32 * 1024)
    table_VD, g_RD = jnp.ones((V, D)), jnp.ones((R, D), jnp.bfloat16)
    tokens_R = jax.random.randint(jax.random.key(1), (R,), 0, V)

    def gradient(look: Callable[[jax.Array], jax.Array]) -> Callable[[], Any]:
        def whole(table_VD: jax.Array, g_RD: jax.Array) -> Any:
            return jax.vjp(look, table_VD)[1](g_RD)

        run = jax.jit(whole)
        return lambda: run(table_VD, g_RD)

    float32 = gradient(lambda table_VD: table_VD[tokens_R].astype(jnp.bfloat16))
    bfloat16 = gradient(lambda table_VD: table_VD.astype(jnp.bfloat16)[tokens_R])
    return {
        "product_tflops": device.product_flops(jnp.float32 if small else jnp.bfloat16) / 1e12,
        "copy_gbps": measuring.bandwidth(device.platform()) / 1e9,
        "embedding's gradient in float32 (ms)": 1e3 * min(seconds(float32, 20)),
        "embedding's gradient in bfloat16 (ms)": 1e3 * min(seconds(bfloat16, 20)),
    }


def main(
    rows: int = 32,
    minutes: float = 8.0,
    small: bool = False,
    out: Path | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Measure all variants within `minutes`; what no longer fits is said to be left out."""
    begun = time.perf_counter()

    def used() -> float:
        return time.perf_counter() - begun

    recipe = load_recipe(RECIPE)
    base = recipe.config
    model = base.model
    assert isinstance(model, TransformerConfig)
    if small:
        model = dataclasses.replace(model, length=64, depth=2, width=64, heads=4, vocab_size=512)
        rows = 4
    batch = dataclasses.replace(base.batch, rows=rows, micro_rows=rows)
    base = dataclasses.replace(base, model=model, batch=batch)
    platform, here = device.platform(), device.describe()
    todo = variants(base)
    drawn = blueprint.draw(base, recipe.make_optimizer, platform)
    flops = drawn.model.flops_per_token() * rows * model.length
    facts: dict[str, Any] = {
        "device": here.name,
        "versions": {name: version(name) for name in ("jax", "jaxlib", "numpy")},
        "rows": rows,
        "length": model.length,
        "flops_per_step": flops,
        "variants": [],
    }

    def keep() -> None:
        if out is not None:
            out.write_text(json.dumps(facts, indent=2) + "\n")

    facts["pieces"] = pieces(small)
    keep()
    console.say(f"{here.name}: {facts['pieces']}")
    pool = concurrent.futures.ThreadPoolExecutor(len(todo) + 1)
    plans = pool.submit(foreseen, todo[: len(RUNGS)])
    programs = {it.name: pool.submit(compiled, it, recipe, platform) for it in todo}
    concurrent.futures.wait(programs.values(), timeout=60 * minutes / 2)
    console.say(f"compiled after {used():.0f} s")

    state = jax.jit(drawn.create)(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(0, model.vocab_size, (1, rows, model.length + 1))
    on_device = Batch(jax.device_put(tokens.astype(np.int32)))
    half = jnp.asarray(0.5, jnp.float32)
    for it in todo:
        row: dict[str, Any] = {"name": it.name}
        facts["variants"].append(row)
        left = 60 * minutes - used()
        if left < 15 or not programs[it.name].done():
            row["error"] = "left out: no time" if left < 15 else "not compiled in time"
            continue
        try:
            program, row["compile_seconds"] = programs[it.name].result()
            memory = compiling.memory(program)
            row["assigned_bytes"] = memory["state"] + memory["temporary"]

            def run(program: Any = program) -> Any:
                nonlocal state
                state, metrics = program(state, on_device, half)
                return metrics

            found = seconds(run, STEPS)
            row["seconds"], row["rounds"] = statistics.median(found), found
            row["loss"] = float(run().loss)
            row["peak_bytes"] = device.peak_memory_bytes()
            row["tokens_per_second"] = rows * model.length / row["seconds"]
            row["mfu"] = flops / row["seconds"] / here.peak_flops
        except Exception as error:  # one variant's trouble is a finding, not the end
            row["error"] = f"{type(error).__name__}: {error}"[:300]
            if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
                state = jax.jit(drawn.create)(jax.random.key(0))
        keep()
    try:
        facts["foreseen_bytes"] = plans.result(timeout=max(0.0, 60 * minutes - 15 - used()))
    except TimeoutError:
        facts["foreseen_bytes"] = {}
    keep()
    show(facts)
    if as_json:
        print(json.dumps(facts))
    pool.shutdown(wait=False, cancel_futures=True)


def show(facts: dict[str, Any]) -> None:
    """One table: time and memory of each variant beside the plain step's."""
    table = Table(
        "variant", "ms a step", "of plain", "tokens/s", "MFU", "peak GiB", "assigned", "foreseen"
    )
    plain = next((r.get("seconds") for r in facts["variants"] if r["name"] == "remat none"), None)
    for row in facts["variants"]:
        if "error" in row:
            console.say(f"{row['name']}: {row['error']}")
            continue
        seen = facts["foreseen_bytes"].get(row["name"])
        table.add_row(
            row["name"],
            f"{1e3 * row['seconds']:.1f}",
            "" if plain is None else f"{row['seconds'] / plain:.3f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['mfu']:.1%}",
            f"{row['peak_bytes'] / 2**30:.2f}",
            f"{row['assigned_bytes'] / 2**30:.2f}",
            "" if seen is None else f"{seen / 2**30:.2f}",
        )
    console.terminal.print(table)


if __name__ == "__main__":
    tyro.cli(main)
