"""Tensors of a family to our parameters and back: names, axes, and the halves of rotated heads.

Shapes: L layers, K head width, ... whatever else.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lmjax.config import ConfigError
from lmjax.interop.families import Family
from lmjax.models.model import Params
from lmjax.models.transformer import Transformer

_ROTATED = ("blocks/q/", "blocks/k/", "blocks/q_norm/", "blocks/k_norm/")


def to_ours(family: Family, model: Transformer, weights: Mapping[str, np.ndarray]) -> Params:
    """Parameters of `model` from a family's tensors.

    Raises ConfigError for a tensor that is missing, of another shape, or that nothing of ours
    stands for.
    """
    spelt = {_spelt(family, name): name for name in weights}
    used: set[str] = set()

    def tensor(name: str) -> np.ndarray:
        whole, _, part = name.partition("#")
        if whole not in spelt:
            raise ConfigError(f"{family.architecture}: {whole}: expected this tensor, found none")
        used.add(whole)
        array = weights[spelt[whole]]
        return np.split(array, 3, axis=-1)[int(part)] if part else array

    def leaf(path: Any, abstract: Any) -> np.ndarray:
        ours = _join(path)
        made = [
            _turned(family, ours, _transposed(family, ours, tensor(name)), model.config.K)
            for name in _theirs(family, ours, model.config.depth)
        ]
        array = np.stack(made) if ours.startswith("blocks/") else made[0]
        if array.shape != abstract.shape:
            raise ConfigError(
                f"{family.architecture}: {family.names[ours]}: expected shape {abstract.shape} as "
                f"our {ours} (L first, matrices [in, out]), found {array.shape}"
            )
        return array

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params: Params = jax.tree_util.tree_map_with_path(leaf, shapes)
    for name in sorted(set(spelt) - used):
        if not name.endswith(family.dropped):
            raise ConfigError(
                f"{family.architecture}: {name}: expected no such tensor; lmjax does not compute "
                "with it, and importing without it would change the model"
            )
    return params


def to_theirs(family: Family, model: Transformer, params: Params) -> dict[str, np.ndarray]:
    """A family's tensors from our parameters."""
    parts: dict[str, list[np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        ours, array = _join(path), np.asarray(leaf)
        names = list(_theirs(family, ours, model.config.depth))
        layers = array if ours.startswith("blocks/") else array[None]
        for name, rows in zip(names, layers, strict=True):
            whole, _, part = name.partition("#")
            thirds = parts.setdefault(whole, [rows] * (3 if part else 1))
            rows = _turned(family, ours, rows, model.config.K)
            thirds[int(part or 0)] = _transposed(family, ours, rows)
    tensors = {}
    for name, thirds in parts.items():
        tensors[name] = np.concatenate(thirds, axis=-1) if len(thirds) > 1 else thirds[0]
    return tensors


def _theirs(family: Family, ours: str, depth: int) -> Iterator[str]:
    name = family.names[ours]
    return (name.format(layer) for layer in range(depth if "{}" in name else 1))


def _spelt(family: Family, name: str) -> str:
    """The name as the family's class with a head spells it; a bare BERT's is the one without."""
    bare = not any(theirs.startswith(family.prefix) for theirs in family.names.values())
    if bare:
        return name.removeprefix(family.prefix)
    return name if name.startswith((family.prefix, "lm_head.")) else family.prefix + name


def _transposed(family: Family, ours: str, array: np.ndarray) -> np.ndarray:
    return array.T if family.transposed and ours.endswith("/kernel") else array


def _turned(family: Family, ours: str, array: np.ndarray, K: int) -> np.ndarray:
    """Swap the halves of every head of q and k where a family's rotation goes the other way.

    With a' = b and b' = a, our (a' cos + b' sin, b' cos - a' sin) is their (b cos + a sin,
    a cos - b sin), its halves swapped in q and k alike: no product of the two changes.
    """
    if not (family.turned and ours.startswith(_ROTATED)):
        return array
    halves = array.reshape(*array.shape[:-1], -1, 2, K // 2)
    return halves[..., ::-1, :].reshape(array.shape)


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(str(key.key) for key in path)
