"""What the attached device does: its rates, and real steps on random tokens."""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.runtime import compiling, device, program, roofline
from lmjax.runtime.blueprint import Blueprint
from lmjax.runtime.program import Product, Work
from lmjax.runtime.roofline import Rates

_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}  # XLA's names

COPIES = 4  # of a product's operands, so that no cache keeps them from one turn to the next
TURNS = 12
CHAIN = 32  # multiplications and subtractions of an element


def _seconds(function: Callable[..., jax.Array], arguments: list[tuple[jax.Array, ...]]) -> float:
    """Of one call within a program, by turns with each of the arguments; the median of five.

    A loop around it leaves out what a program's start and the memory of its results take.
    """

    def many(last: jax.Array, arguments: list[tuple[jax.Array, ...]]) -> jax.Array:
        branches = [lambda last, one=one: function(*one) for one in arguments]
        return jax.lax.fori_loop(
            0, TURNS, lambda i, last: jax.lax.switch(i % len(branches), branches, last), last
        )

    shape = jax.eval_shape(function, *arguments[0])
    loop = jax.jit(many, donate_argnums=0, compiler_options=device.compiler_options())
    last = loop(jnp.zeros(shape.shape, shape.dtype), arguments)
    found = []
    for _ in range(5):
        jax.block_until_ready(last)
        start = time.perf_counter()
        last = jax.block_until_ready(loop(last, arguments))
        found.append((time.perf_counter() - start) / TURNS)
    return statistics.median(found)


def _product_rate(product: Product) -> float:
    """Operations a second of one product."""

    def operand(key: jax.Array, side: int) -> jax.Array:
        dtype = _DTYPES[product.dtypes[side]]
        return jax.random.normal(jax.random.fold_in(key, side), product.shapes[side], dtype)

    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.dot_general(a, b, (product.contracting, product.batch))

    keys = jax.random.split(jax.random.key(0), COPIES)
    return product.flops / _seconds(multiply, [(operand(key, 0), operand(key, 1)) for key in keys])


def _square(dtype: str, n: int, batch: int) -> float:
    shape = (batch, n, n)
    return _product_rate(Product((dtype, dtype), (shape, shape), ((2,), (1,)), ((0,), (0,))))


def _large(platform: str) -> jax.Array:
    """Numbers that no cache holds."""
    return jnp.ones((2**27 if platform == "gpu" else 2**24,), jnp.float32)


def _chain(x: jax.Array) -> jax.Array:
    """So many operations on an element that memory is no matter; none overflows."""
    for _ in range(CHAIN):
        x = x * x - 0.5
    return x


def bandwidth(platform: str, most: int | None = None) -> float:
    """Bytes a second that a copy reads and writes, both counted: of so many bytes, or of more than
    any cache holds."""
    x = _large(platform)[: None if most is None else most // 8]
    return 2 * x.nbytes / _seconds(lambda x: x + 1, [(x,), (-x,)])


def rates(platform: str, works: Iterable[Work] = ()) -> Rates:
    """Rates of the attached device, measured: a copy, exponentials, products.

    Each product of `works` is measured by itself: some seconds.
    """
    gpu = platform == "gpu"
    x = _large(platform)
    memory = bandwidth(platform)
    float32 = _square("f32", 4096 if gpu else 768, 1)
    fast = _square("bf16", 4096, 1) if gpu else float32
    found = {work.product for work in works if work.product is not None}
    return Rates(
        product=fast,
        product_float32=float32,
        narrow=_square("bf16" if gpu else "f32", 64, 96),
        attention=fast / 2,
        bytes=memory,
        cached=memory if gpu else bandwidth(platform, roofline.CACHE // 2),
        operations=2 * CHAIN * x.size / _seconds(_chain, [(x,), (-x,)]),
        dear=2 * x.size / _seconds(lambda x: jnp.exp(x) + jnp.tanh(x), [(x,), (-x,)]),
        launch=2e-6 if gpu else 1e-6,
        products={product: _product_rate(product) for product in found if _known(product)},
    )


def _known(product: Product) -> bool:
    return all(name in _DTYPES for name in product.dtypes)


class Measured(NamedTuple):
    """The step as it was compiled for the attached device, how long it took, and its memory."""

    compiled: compiling.Compiled
    seconds: float
    peak: int
    """Bytes: of a GPU as JAX took them, on a CPU all of this process."""


def ready(drawn: Blueprint, seed: int) -> tuple[jax.stages.Compiled, tuple[Any, Any, jax.Array]]:
    """The compiled step and what it takes: a fresh state, random tokens, half of the progress."""
    _, batch_shapes, _ = drawn.shapes
    lowered = jax.jit(drawn.train_step, donate_argnums=0).lower(*drawn.shapes)
    step = lowered.compile(device.compiler_options())
    state = jax.jit(drawn.create)(jax.random.key(seed))
    shape = batch_shapes.tokens.shape
    tokens = np.random.default_rng(seed).integers(0, drawn.model.V, shape, dtype=np.int32)
    batch = jax.device_put(batch_shapes._replace(tokens=tokens))
    return step, (state, batch, jnp.asarray(0.5, jnp.float32))


def steps(drawn: Blueprint, seed: int, count: int = 20) -> Measured:
    """Run `count` steps on random tokens from fresh parameters; the median's seconds."""
    step, (state, batch, half) = ready(drawn, seed)
    compiled = compiling.Compiled(
        path=drawn.model.path,
        works=tuple(program.works(step.as_text() or "")),
        **compiling.memory(step),
    )
    found = []
    for _ in range(count + 2):
        start = time.perf_counter()
        state, metrics = step(state, batch, half)
        jax.block_until_ready((state, metrics))
        found.append(time.perf_counter() - start)
    return Measured(compiled, statistics.median(found[2:]), device.peak_memory_bytes())
