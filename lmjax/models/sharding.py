"""Where arrays live on many devices: the one rule for parameters, optimizer state and batches.

The step knows nothing of it: XLA divides the program by where its inputs lie (SPMD).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lmjax.config import ConfigError, MeshConfig

ROWS = ("data", "fsdp")
"""The axes that rows are divided over."""

# A smaller array stays whole on each device: to gather it would cost more than it takes.
_DIVIDED_FROM = 4096

# Megatron-LM's cut (Shoeybi et al. 2019), from the last axis: what a layer makes of its input is
# divided, and what it adds to the stream is summed.
_TENSOR = {"q": -1, "k": -1, "v": -1, "up": -1, "gate": -1, "o": -2, "down": -2}
_TENSOR |= {"embedding": -2, "head": -2}

Result = TypeVar("Result")


def mesh(config: MeshConfig, devices: Sequence[jax.Device]) -> Mesh:
    """The devices of a run, neighbours along `tensor`. Raises ConfigError where there are fewer.

    Of one process the first are taken; several processes take part with all they have.
    """
    asked, processes = config.devices, len({device.process_index for device in devices})
    if asked > len(devices) or (processes > 1 and asked < len(devices)):
        raise ConfigError(
            f"mesh: expected data x fsdp x tensor to be {'at most ' * (processes == 1)}the "
            f"{len(devices)} devices of {processes} process{'es' * (processes > 1)}, found "
            f"{config.data} x {config.fsdp} x {config.tensor} = {asked}; give other numbers, such "
            f"as --mesh.fsdp {len(devices)}"
        )
    shape = (config.data, config.fsdp, config.tensor)
    return Mesh(
        np.array(devices[:asked]).reshape(shape),
        ("data", "fsdp", "tensor"),
        axis_types=(AxisType.Auto,) * 3,
    )


def spec(path: tuple[Any, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How an array of the state is divided, by its path in the tree and its shape.

    `tensor` takes the axis that its layer's kind says; `fsdp` the largest of the others that it
    divides. What neither divides is whole on each device. An optimizer's copies of a parameter
    have its names and its shape, and so lie where it lies.
    """
    axes: list[str | None] = [None] * len(shape)
    if math.prod(shape) < _DIVIDED_FROM:
        return PartitionSpec(*axes)
    names = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
    own = names[-1] if names else ""
    layer = names[-2] if own in ("kernel", "bias") and len(names) > 1 else own
    place = _TENSOR.get(layer) if mesh.shape["tensor"] > 1 else None
    if own == "bias" and place != -1:  # of what is summed: added once
        place = None
    if place is not None and len(shape) >= -place and shape[place] % mesh.shape["tensor"] == 0:
        axes[place] = "tensor"
    by_size = sorted(range(len(shape)), key=lambda i: (shape[i], i), reverse=True)
    for i in by_size:
        if axes[i] is None and shape[i] % mesh.shape["fsdp"] == 0:
            axes[i] = "fsdp"
            break
    return PartitionSpec(*axes)


def of_state(mesh: Mesh, tree: Any) -> Any:
    """A sharding for each array of a tree of parameters or of optimizer state."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec(path, leaf.shape, mesh)), tree
    )


def of_rows(mesh: Mesh, axis: int) -> NamedSharding:
    """The sharding of arrays whose `axis` counts rows."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, ROWS))


def whole(mesh: Mesh) -> NamedSharding:
    """The sharding of what each device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def shaped(tree: Any, shardings: Any) -> Any:
    """The shapes of a tree with where its arrays are to lie."""
    return jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings
    )


def own_rows(mesh: Mesh) -> tuple[int, int, int]:
    """The parts of rows computed at a time that this process's devices hold: first, last, of."""
    parts = [mesh.shape[name] for name in ROWS]
    devices = mesh.devices.reshape(math.prod(parts), -1)
    mine = [any(d.process_index == jax.process_index() for d in part) for part in devices]
    return mine.index(True), len(mine) - mine[::-1].index(True), len(mine)


def place(batch: Any, axis: int) -> Any:
    """This process's rows of a batch, counted by `axis`, on the devices of the mesh that is set."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.device_put(batch)
    first, last, of = own_rows(mesh)

    def put(rows: np.ndarray) -> jax.Array:
        shape = list(rows.shape)
        shape[axis] = shape[axis] * of // (last - first)
        return _put(rows, of_rows(mesh, axis), tuple(shape))

    return jax.tree.map(put, batch)


def everywhere(value: Any, mesh: Mesh) -> jax.Array:
    """A value that each process has, whole on each device."""
    return _put(np.asarray(value), whole(mesh), np.shape(value))


def _put(part: np.ndarray, sharding: NamedSharding, shape: tuple[int, ...]) -> jax.Array:
    if sharding.is_fully_addressable:
        return jax.device_put(part, sharding)
    with jax.transfer_guard_host_to_device("allow"):  # asked for, where the guard sees a slip
        return jax.make_array_from_process_local_data(sharding, part, shape)


def gathered(table: jax.Array) -> jax.Array:
    """A table of embeddings, whole on each device before rows look it up.

    XLA left alone may hand each device a part of each embedding of all rows instead. The mesh is
    the one that is set.
    """
    if jax.sharding.get_abstract_mesh().size <= 1:
        return table
    return jax.lax.with_sharding_constraint(table, PartitionSpec())


def each_on_one(stack: jax.Array) -> jax.Array:
    """Matrices stacked along the first axis, each whole on one device along `fsdp`.

    What is computed of whole matrices then needs no other device. The mesh is the one that is set.
    """
    if jax.sharding.get_abstract_mesh().shape.get("fsdp", 1) == 1:
        return stack
    return jax.lax.with_sharding_constraint(stack, PartitionSpec("fsdp"))


def over_rows(summed: Callable[..., Result], rows: Any, shared: Any) -> Result:
    """`summed(rows, shared)`, a sum over rows: each device over its own, then added up.

    XLA left alone would add gradients of `shared` up across devices in each turn of a loop over
    chunks of rows, or hand each device all of the rows. The mesh is the one that is set; `rows` are
    divided along their first axis.
    """
    here = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name in ROWS if here.shape.get(name, 1) > 1)
    if not axes:
        return summed(rows, shared)

    def local(rows: Any, shared: Any) -> Result:
        return jax.lax.psum(summed(rows, shared), axes)

    found: Result = jax.shard_map(
        local,
        in_specs=(PartitionSpec(axes), PartitionSpec()),
        out_specs=PartitionSpec(),
        axis_names=set(axes),
        check_vma=False,
    )(rows, shared)
    return found
