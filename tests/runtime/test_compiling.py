"""GPT-2's step as XLA compiles it for an H100 that is not there: what runs, and what it takes."""

import dataclasses
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lmjax.config import MeshConfig, load_config
from lmjax.runtime import compiling, devices, program
from lmjax.runtime.generation import LEAST_ROWS

pytestmark = pytest.mark.skipif(
    not compiling.available(), reason=f"needs XLA's compiler for GPUs: {compiling.INSTALL}"
)

GPT2 = Path(__file__).parents[2] / "configs" / "gpt2.py"
PEAKS = tomllib.loads(Path(__file__).with_name("peaks.toml").read_text())
XL = {"depth": 48, "width": 1600, "heads": 25, "unroll": 1}


@pytest.fixture(scope="module")
def compiler():
    with pytest.MonkeyPatch.context() as patch, compiling.Compiler(GPT2) as compiler:
        patch.setenv("XLA_FLAGS", "")  # as users compile
        yield compiler


@pytest.mark.parametrize(
    ("name", "rows", "numbers", "forward"),
    [
        ("gpt2 none", 32, {}, 12),
        ("gpt2 attention", 32, {}, 12),
        ("gpt2-xl full", 8, XL, 2 * 48),
    ],
)
def test_a_step_of_gpt2(compiler, name, rows, numbers, forward):
    """AdamW, T 1024; `forward` counts the calls of attention, which only `full` makes twice."""
    config = load_config(GPT2)
    model = dataclasses.replace(config.model, remat=name.split()[1], **numbers)
    batch = dataclasses.replace(config.batch, rows=rows, micro_rows=rows)
    config = dataclasses.replace(config, model=model, batch=batch)
    compiled = compiler.compile(config, devices.find("h100"))

    assert compiled.path == "cudnn attention"
    calls = {"fwd": 0.0, "bwd": 0.0}
    for work in compiled.works:
        if work.kind == "attention":
            calls["bwd" if "bwd" in work.name else "fwd"] += work.times
    assert calls == {"fwd": forward, "bwd": config.model.depth}

    products = {work.product.dtypes for work in compiled.works if work.product is not None}
    assert ("bf16", "bf16") in products and ("f32", "f32") not in products

    peak = compiled.peak / 2**30
    assert peak == pytest.approx(PEAKS[name]["found"], rel=0.05)
    assert peak <= PEAKS[name]["most"]


@pytest.mark.parametrize("cards", [8, 64])
def test_a_step_on_many_cards(compiler, cards):
    """GPT-2 XL with 8 rows a card: weights are gathered and their gradients scattered, no more."""
    config = load_config(GPT2)
    model = dataclasses.replace(config.model, remat="full", **XL)
    rows = 8 * cards
    batch = dataclasses.replace(config.batch, rows=rows, micro_rows=rows)
    mesh = MeshConfig(fsdp=cards)
    config = dataclasses.replace(config, model=model, batch=batch, mesh=mesh)
    compiled = compiler.compile(config, devices.find("h100"))

    calls = [work for work in compiled.works if work.kind == "attention"]
    assert sum(work.times for work in calls) == 3 * 48
    assert not any(work.product and work.float32 for work in compiled.works)
    sums = {}
    for one in compiled.collectives:
        sums[one.kind] = sums.get(one.kind, 0) + one.times * one.bytes
    assert set(sums) == {"all-gather", "reduce-scatter", "all-reduce"}
    blocks = 12 * 48 * 1600**2
    table = 50_304 * 1600
    # bfloat16, forward and backward, biases aside; the embedding in float32 too, for the lookup.
    assert sums["all-gather"] == pytest.approx(2 * 2 * blocks + (4 + 2) * table, rel=0.01)
    assert sums["reduce-scatter"] == pytest.approx(2 * blocks + (4 + 2) * table, rel=0.01)
    assert sums["all-reduce"] < 0.01 * sums["all-gather"]

    peak = compiled.peak / 2**30
    kept = PEAKS[f"gpt2-xl full x {cards}"]
    assert peak == pytest.approx(kept["found"], rel=0.05)
    assert peak <= kept["most"]


@pytest.mark.parametrize(
    "numbers", [{"causal": False}, {"window": 64, "window_pattern": "SL", "kv_heads": 4}]
)
def test_documents_are_told_apart_by_cudnn(compiler, numbers):
    """Forward and backward take a bias where documents are masked, and none otherwise."""
    config = load_config(GPT2)
    model = dataclasses.replace(config.model, depth=2, vocab_size=512, length=256, **numbers)
    batch = dataclasses.replace(config.batch, rows=4, micro_rows=4)
    config = dataclasses.replace(config, model=model, batch=batch)
    masked = dataclasses.replace(config.objective, document_mask=True)
    moved = []
    for objective in (config.objective, masked):
        asked = dataclasses.replace(config, objective=objective)
        works = compiler.compile(asked, devices.find("h100")).works
        calls = [work for work in works if work.kind == "attention"]
        assert sum(work.times for work in calls) == 4
        moved.append([work.bytes for work in calls])
    bias = 2 * 256 * 256  # bfloat16, a row
    assert all(more - less >= bias for less, more in zip(*moved, strict=True))


DECODING = """
import sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from lmjax.config import load_config
from lmjax.learning import sampling
from lmjax.models import sharding
from lmjax.models.build import build
from lmjax.runtime import devices

recipe, rows, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = load_config(recipe, ["--model.attention", "xla"])
target = devices.target(devices.find("h100"))
there = topologies.get_topology_desc(
    platform="cuda", target_config=target, topology="1x1x1"
)
mesh = sharding.mesh(config.mesh, there.devices)
model = build(config.model, "gpu")
key = jax.eval_shape(lambda: jax.random.key(0))
params = jax.eval_shape(lambda key: model.for_decoding(model.init(key)), key)
cache = jax.eval_shape(lambda: model.init_cache(rows, 128))
row = jax.ShapeDtypeStruct((rows,), jnp.int32)
number = jax.ShapeDtypeStruct((), jnp.float32)
lies = sharding.whole(mesh)
params, tail, key, number = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=lies),
    (params, sampling.Tail(row, row, cache), key, number),
)
with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    lowered = sampling.extend.lower(
        model, params, tail, key, count, model.V, number, None, None
    )
print(lowered.compile().as_text())
"""


def test_a_token_reads_the_weights_once_and_asks_the_host_nothing():
    """124M in bfloat16, 248 MB: the fewest rows that a GPU computes move little more."""
    count = 16
    asked = {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "XLA_FLAGS": ""}
    answer = subprocess.run(
        [sys.executable, "-c", DECODING, str(GPT2), str(LEAST_ROWS["gpu"]), str(count)],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    moved = sum(work.times * work.bytes for work in program.works(answer.stdout))
    assert moved / count < 1.2 * 248e6
    assert " conditional(" not in answer.stdout
