"""Muon and NorMuon: momentum, orthogonalised, its rows brought to one length.

Shapes: ... leading axes (layers), I fan-in, O fan-out; N matrices, S short side, W wide side.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmjax.learning.schedules import Schedule
from lmjax.models import sharding

# The optimal composition of five odd quintics for singular values from 0.001 to 1, with a cushion
# of 0.02, and a safety factor of 1.02 in all but the last: Amsel et al. 2025, "The Polar Express",
# as used by modded-nanogpt and nanochat.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(tree: Any, dtype: jax.typing.DTypeLike = jnp.float32) -> Any:
    """The nearest orthogonal matrix to each matrix [..., I, O] of a tree, by Polar Express.

    Singular values above a thousandth of the Frobenius norm end between 0.7 and 1.2. Matrices of
    one shape, or of its transpose, go through one chain of batched products in `dtype`.
    """
    leaves, structure = jax.tree.flatten(tree)
    wide = [jnp.swapaxes(x, -2, -1) if x.shape[-2] > x.shape[-1] else x for x in leaves]
    chains: dict[tuple[int, ...], list[int]] = {}
    for index, x in enumerate(wide):
        chains.setdefault(x.shape[-2:], []).append(index)
    done: dict[int, jax.Array] = {}
    for shape, members in chains.items():
        stack_NSW = jnp.concatenate([wide[index].reshape(-1, *shape) for index in members])
        stack_NSW = _polar_express(sharding.each_on_one(stack_NSW), dtype)
        sizes = [math.prod(wide[index].shape[:-2]) for index in members]
        ends = [sum(sizes[: place + 1]) for place in range(len(sizes) - 1)]
        for index, part in zip(members, jnp.split(stack_NSW, ends), strict=True):
            x = part.reshape(wide[index].shape)
            done[index] = x if x.shape == leaves[index].shape else jnp.swapaxes(x, -2, -1)
    return jax.tree.unflatten(structure, [done[index] for index in range(len(leaves))])


def _polar_express(x_NSW: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    result = x_NSW.dtype
    norm_N11 = jnp.sqrt(jnp.sum(jnp.square(x_NSW), axis=(-2, -1), keepdims=True))
    x_NSW = (x_NSW / (norm_N11 + 1e-8)).astype(dtype)
    for a, b, c in POLAR_EXPRESS:
        gram_NSS = jnp.einsum("nsw,ntw->nst", x_NSW, x_NSW)
        factor_NSS = b * gram_NSS + c * (gram_NSS @ gram_NSS)
        x_NSW = a * x_NSW + factor_NSS @ x_NSW
    return x_NSW.astype(result)


class MomentumState(NamedTuple):
    """The averaged gradient, and the sum of the weights in it: 1 - momentum^t where constant."""

    average: Any
    weight: jax.Array


def scale_by_muon(
    momentum: float | Schedule = 0.95,
    nesterov: bool = True,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> optax.GradientTransformationExtraArgs:
    """Muon's direction for matrices [..., I, O]: the momentum, orthogonalised in `dtype`.

    `momentum` may be a schedule of `progress`; averages are freed of their bias as in Adam.
    For all parameters it is given: choose the matrices with `optax.partition`. Jordan et al. 2024,
    "Muon"; with a constant momentum and float32 it is `optax.contrib.scale_by_muon`.
    """

    def init(params: Any) -> MomentumState:
        return MomentumState(jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))

    def update(
        updates: Any, state: MomentumState, params: Any = None, *, progress: Any = None, **_: Any
    ) -> tuple[Any, MomentumState]:
        beta = momentum(progress) if callable(momentum) else momentum
        average = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, state.average, updates)
        weight = beta * state.weight + (1 - beta)
        if nesterov:  # one step ahead, as if the gradient came again
            ahead = beta * weight + (1 - beta)
            direction = jax.tree.map(
                lambda m, g: beta / ahead * m + (1 - beta) / weight * g, average, updates
            )
        else:
            direction = average
        return orthogonalize(direction, dtype), MomentumState(average, weight)

    return optax.GradientTransformationExtraArgs(init, update)


def scale_by_shape() -> optax.GradientTransformation:
    """Multiply matrices [..., I, O] by sqrt(max(1, O / I)): one learning rate for all shapes.

    Keller Jordan's rule for Muon.
    """
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda u: u * math.sqrt(max(1.0, u.shape[-1] / u.shape[-2])), updates
        )
    )


def equalize(beta: float = 0.95, epsilon: float = 1e-10) -> optax.GradientTransformation:
    """Divide each line of a matrix by the root of its running mean square; keep the norm.

    Lines run along the longer side of [..., I, O], the outputs of a square matrix: one number of
    state a line. After `scale_by_muon` this is NorMuon: Li et al. 2025, in the form of
    modded-nanogpt and nanochat.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(lambda p: jnp.zeros_like(_mean_square(p)), params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        state = jax.tree.map(lambda v, u: beta * v + (1 - beta) * _mean_square(u), state, updates)
        return jax.tree.map(scaled, updates, state), state

    def scaled(update_IO: jax.Array, square: jax.Array) -> jax.Array:
        result_IO = update_IO * jax.lax.rsqrt(jnp.maximum(square, epsilon))
        return result_IO * (_norm(update_IO) / jnp.maximum(_norm(result_IO), epsilon))

    return optax.GradientTransformation(init, update)


def _mean_square(x_IO: jax.Array) -> jax.Array:
    across = -2 if x_IO.shape[-1] >= x_IO.shape[-2] else -1
    return jnp.mean(jnp.square(x_IO), axis=across, keepdims=True)


def _norm(x_IO: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x_IO), axis=(-2, -1), keepdims=True))


def scale_by_normuon(
    momentum: float | Schedule = 0.95,
    beta2: float = 0.95,
    nesterov: bool = True,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> optax.GradientTransformationExtraArgs:
    """NorMuon's direction (Li et al. 2025): `scale_by_muon`, then `equalize`."""
    return optax.chain(scale_by_muon(momentum, nesterov, dtype), equalize(beta2))


def cautious_decay(
    weight_decay: float, schedule: Schedule | None = None
) -> optax.GradientTransformationExtraArgs:
    """Decay weights only where the update already shrinks them: update times parameter >= 0.

    Stands where `optax.add_decayed_weights` would, before the learning rate; `schedule` is a factor
    over `progress`. Raises ValueError without parameters. Chen et al. 2025, "Cautious Weight
    Decay".
    """

    def update(
        updates: Any, state: Any, params: Any = None, *, progress: Any = None, **_: Any
    ) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("cautious_decay: expected params in update(), found none; pass them")
        rate = weight_decay if schedule is None else weight_decay * schedule(progress)
        return jax.tree.map(
            lambda u, p: u + rate * jnp.where(u * p >= 0, p, 0), updates, params
        ), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
