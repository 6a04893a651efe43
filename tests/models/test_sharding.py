"""One rule for many devices: the same losses on any mesh, a share of the state on each device."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from lmjax import train
from lmjax.config import BatchConfig, Config, ConfigError, MeshConfig
from lmjax.models import sharding

CHILD = """
import dataclasses, json, sys
import jax, numpy as np
from lmjax.config import *
from lmjax.data.loader import Batch
from lmjax.models import sharding
from lmjax.runtime import blueprint

config = Config(
    model=TransformerConfig(vocab_size=512, length=32, depth=2, width=64, heads=2, unroll=1),
    batch=BatchConfig(rows=16, micro_rows=8),
    optimizer=OptimizerConfig(clip_norm=1.0),
)
tokens = np.random.default_rng(0).integers(0, 512, (3, 2, 8, 33), dtype=np.int32)
for axes in json.loads(sys.argv[1]):
    mesh = sharding.mesh(MeshConfig(**axes), jax.devices())
    with jax.set_mesh(mesh):
        drawn = blueprint.draw(config, None, "cpu")
        lies, whole = sharding.of_state(mesh, drawn.shapes[0]), sharding.whole(mesh)
        state = jax.jit(drawn.create, out_shardings=lies)(jax.random.key(0))
        step = jax.jit(drawn.train_step, donate_argnums=0, out_shardings=(lies, whole))
        losses = []
        for batch in tokens:
            state, metrics = step(state, sharding.place(Batch(batch), 1), np.float32(0.5))
            losses.append(float(metrics.loss))

    def held(tree):
        found = {d.id: 0 for d in mesh.devices.flat}
        for shard in (shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards):
            found[shard.device.id] += shard.data.nbytes
        return np.array(list(found.values()))

    everywhere = held(state.history)
    divided = held(state) - everywhere
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state._replace(history=None)))
    print(json.dumps({
        "losses": losses,
        "everywhere": everywhere.tolist(),
        "shares": (divided / size).tolist(),
    }))
"""

MESHES = [{}, {"data": 2}, {"data": 2, "fsdp": 2}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]


@pytest.fixture(scope="module")
def found():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(MESHES)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return [json.loads(line) for line in child.stdout.splitlines()]


def test_losses_are_the_same_on_any_mesh(found):
    for one in found[1:]:
        assert one["losses"] == pytest.approx(found[0]["losses"], abs=1e-5, rel=0)
    assert len({round(loss, 4) for loss in found[0]["losses"]}) == 3  # other parameters each step


def test_devices_share_the_state(found):
    for axes, one in zip(MESHES, found, strict=True):
        devices = axes.get("fsdp", 1) * axes.get("tensor", 1)
        assert len(one["shares"]) == devices * axes.get("data", 1)
        assert max(one["everywhere"]) < 1100  # the guard's history, bytes
        assert one["shares"] == pytest.approx([1 / devices] * len(one["shares"]), rel=1e-3)


def test_the_rule():
    axes = ("data", "fsdp", "tensor")

    def lies(names, shape, tensor=2):
        mesh = AbstractMesh((1, 4, tensor), axes, (AxisType.Auto,) * 3)
        return tuple(sharding.spec(tuple(map(jax.tree_util.DictKey, names)), shape, mesh))

    assert lies(["blocks", "q", "kernel"], (3, 64, 96)) == (None, "fsdp", "tensor")
    assert lies(["blocks", "down", "kernel"], (3, 256, 64)) == (None, "tensor", "fsdp")
    assert lies(["blocks", "down", "bias"], (64, 128)) == (None, "fsdp")
    assert lies(["blocks", "up", "bias"], (64, 128)) == ("fsdp", "tensor")
    assert lies(["embedding"], (512, 60)) == ("tensor", "fsdp")
    assert lies(["embedding"], (512, 60), tensor=1) == ("fsdp", None)
    assert lies(["blocks", "q", "kernel"], (3, 64, 96), tensor=1) == (None, None, "fsdp")
    assert lies(["positions"], (62, 128)) == (None, "fsdp")  # the largest that 4 divides
    assert lies(["positions"], (128, 62)) == ("fsdp", None)
    assert lies(["positions"], (255, 63)) == (None, None)
    assert lies(["norm", "scale"], (64,)) == (None,)  # too small to be worth gathering


@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        ("batch.rows", {"batch": BatchConfig(rows=12)}),
        ("batch.micro_rows", {"batch": BatchConfig(rows=32, micro_rows=4)}),
        ("mesh.data", {"mesh": MeshConfig, "axes": {"data": 0}}),
    ],
)
def test_rows_that_devices_cannot_share_are_refused(key, numbers):
    with pytest.raises(ConfigError, match=f"^{key}: expected .*, found"):
        if "axes" in numbers:
            MeshConfig(**numbers["axes"])
        dataclasses.replace(Config(mesh=MeshConfig(data=2, fsdp=4)), **numbers)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--mesh.fsdp", "32"], "mesh: expected data x fsdp x tensor to be at most the 1 devices"),
        (["--mesh.pipeline", "2"], "--mesh.pipeline"),
        (["--mesh.data", "5"], "batch.rows: expected a multiple of mesh.data x mesh.fsdp"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(arguments, told, tmp_path, corpus, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.py").write_text(
        "from lmjax.config import *\n\ndef get_config():\n    return Config(run='run')\n"
    )
    with pytest.raises(SystemExit) as stop:
        train.main(["--config", "recipe.py", "--data", str(corpus), *arguments])
    assert stop.value.code == 78
    printed = capsys.readouterr().err
    assert told in " ".join(printed.replace("│", " ").split()), printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run" / "config.json").exists()
