"""Whether two processes compute the same bits: 20 steps in each, on random tokens, compared.

Each is `python -m lmjax.runtime.determinism ATTENTION [RECIPE]`, with nothing compiled before: what
a compiler chooses with a stopwatch is chosen anew. It prints the device, a line a step, digests.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

STEPS = 20
FLAGS = "--xla_gpu_deterministic_ops=true"
WHY = (
    "xla_gpu_deterministic_ops adds in a fixed order, where kernels otherwise add as their threads "
    "happen to finish, and picks kernels by rule, where XLA otherwise times some and takes the "
    "fastest: another start may take another, with other roundings. It costs speed"
)


class Comparison(NamedTuple):
    """Two processes on a device; `difference` is None where all their bits agree."""

    platform: str
    device: str
    difference: str | None


class ProbeError(RuntimeError):
    """A process could not run the steps."""


def compare(recipe: Path | None, flags: str = "", attention: str = "auto") -> Comparison:
    """Run the steps twice, one process after the other. Raises ProbeError with what one said.

    `flags` are XLA's; `attention` other than auto takes the place of a Transformer's own choice.
    """
    first, second = (_run(recipe, flags, attention) for _ in range(2))
    facts = first[0]
    return Comparison(facts["platform"], facts["device"], _difference(first[1:], second[1:]))


def _run(recipe: Path | None, flags: str, attention: str) -> list[dict[str, Any]]:
    environment = dict(os.environ)
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flags}".strip()
    command = [sys.executable, "-m", "lmjax.runtime.determinism", attention]
    ended = subprocess.run(
        command + ([] if recipe is None else [str(recipe)]),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        last = "\n".join(ended.stderr.strip().splitlines()[-3:])
        raise ProbeError(f"{STEPS} steps ended with code {ended.returncode}: {last}")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def _difference(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> str | None:
    for one, other in zip(first, second, strict=True):
        for name, value in one.items():
            if other[name] != value:
                where = f"step {one['step']}, " if "step" in one else f"after step {STEPS}, "
                return f"{where}{name}: {value} in one process, {other[name]} in the other"
    return None


def _steps(attention: Any, recipe: Path | None) -> None:
    import jax
    import numpy as np

    from lmjax import config as configuration
    from lmjax.config import BatchConfig, Config, Recipe, TransformerConfig
    from lmjax.runtime import blueprint

    if recipe is None:
        model = TransformerConfig(vocab_size=2048, length=128, depth=2, width=128, heads=2)
        chosen = Recipe(Config(model=model, batch=BatchConfig(rows=4, micro_rows=2)), None)
    else:
        chosen = configuration.load_recipe(recipe)
    config = chosen.config
    if attention != "auto" and isinstance(config.model, TransformerConfig):
        model = dataclasses.replace(config.model, attention=attention)
        config = dataclasses.replace(config, model=model)
    device = jax.devices()[0]
    drawn = blueprint.draw(config, chosen.make_optimizer, device.platform)
    print(json.dumps({"platform": device.platform, "device": device.device_kind}))
    state = jax.jit(drawn.create)(jax.random.key(config.seed))
    step = jax.jit(drawn.train_step, donate_argnums=0)
    shapes = drawn.shapes[1]
    for number in range(1, STEPS + 1):
        chance = np.random.default_rng(number)
        tokens = chance.integers(0, drawn.model.V, shapes.tokens.shape, dtype=np.int32)
        state, metrics = step(state, shapes._replace(tokens=tokens), np.float32(number / STEPS))
        values = {name: float(getattr(metrics, name)).hex() for name in ("loss", "grad_norm")}
        print(json.dumps({"step": number, **values}))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest = hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        print(json.dumps({f"state{jax.tree_util.keystr(path)}": digest[:16]}))


if __name__ == "__main__":
    _steps(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else None)
