"""What the attached device does: its rates, and real steps on random tokens."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.runtime import compiling, program
from lmjax.runtime.blueprint import Blueprint
from lmjax.runtime.roofline import Rates


def _best(run: Callable[[], Any], repeats: int = 5) -> float:
    jax.block_until_ready(run())
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _product(dtype: Any, n: int, batch: int = 1) -> float:
    """Operations a second in square products."""
    a = jnp.ones((batch, n, n) if batch > 1 else (n, n), dtype)
    product = jax.jit(jnp.matmul)
    return float(2 * batch * n**3 / _best(lambda: product(a, a)))


def rates(platform: str) -> Rates:
    """Rates of the attached device, measured: products, a copy, exponentials; about a second."""
    wide, elements = (4096, 2**27) if platform == "gpu" else (768, 2**22)
    x = jnp.ones((elements,), jnp.float32)
    add, dear = jax.jit(lambda x: x + 1), jax.jit(lambda x: jnp.exp(x) + jnp.tanh(x))
    small = jnp.ones((8,))
    float32 = _product(jnp.float32, wide)
    fast = _product(jnp.bfloat16, wide) if platform == "gpu" else float32
    moved = 8 * elements / _best(lambda: add(x))
    return Rates(
        product=fast,
        product_float32=float32,
        narrow=_product(jnp.bfloat16 if platform == "gpu" else jnp.float32, 64, batch=96),
        attention=fast / 2,
        bytes=moved,
        operations=21 * elements / _best(lambda: dear(x)),
        launch=2e-6 if platform == "gpu" else min(2e-5, _best(lambda: add(small)) / 10),
    )


class Measured(NamedTuple):
    """The step as it was compiled for the attached device, and how long it took."""

    compiled: compiling.Compiled
    seconds: float


def steps(drawn: Blueprint, seed: int, count: int = 20) -> Measured:
    """Run `count` steps on random tokens from fresh parameters; the median's seconds."""
    _, batch_shapes, _ = drawn.shapes
    step = jax.jit(drawn.train_step, donate_argnums=0).lower(*drawn.shapes).compile()
    compiled = compiling.Compiled(
        path=drawn.model.path,
        works=tuple(program.works(step.as_text() or "")),
        **compiling.memory(step),
    )
    state = jax.jit(drawn.create)(jax.random.key(seed))
    shape = batch_shapes.tokens.shape
    tokens = np.random.default_rng(seed).integers(0, drawn.model.V, shape, dtype=np.int32)
    batch = jax.device_put(batch_shapes._replace(tokens=tokens))
    half = jnp.asarray(0.5, jnp.float32)
    found = []
    for _ in range(count + 2):
        start = time.perf_counter()
        state, metrics = step(state, batch, half)
        jax.block_until_ready((state, metrics))
        found.append(time.perf_counter() - start)
    return Measured(compiled, statistics.median(found[2:]))
