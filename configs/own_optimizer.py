"""An optimizer composed by hand: any chain of optax compiles into the same single step.

    python -m lmjax.train --config configs/own_optimizer.py --optimizer.learning-rate 0.002

Lion and a transform written here for the matrices, Adam for the rest. `make_optimizer` is called
after overrides, so a number swept on the command line reaches the chain. Takes 5 minutes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmjax.config import (
    BatchConfig,
    Config,
    OptimizerConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from lmjax.learning import optimizers, schedules


def get_config() -> Config:
    return Config(
        budget="5m",
        data="corpora/python-docs",
        run="runs/own-optimizer",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=TransformerConfig(length=256, depth=4, width=256, heads=4),
        batch=BatchConfig(rows=16),
        optimizer=OptimizerConfig(learning_rate=0.001, beta1=0.9, beta2=0.99),
    )


def shrink_late() -> optax.GradientTransformationExtraArgs:
    """A transform of one's own: halve the updates of the last tenth of the run."""

    def update(updates: Any, state: Any, params: Any = None, *, progress: Any, **_: Any) -> Any:
        del params
        factor = jnp.where(progress > 0.9, 0.5, 1.0)
        return jax.tree.map(lambda u: factor * u, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    c, schedule = config.optimizer, schedules.make(config.schedule)
    matrices = optax.chain(
        optax.scale_by_lion(c.beta1, c.beta2),
        optax.add_decayed_weights(c.weight_decay),
        shrink_late(),
        optimizers.descend(c.learning_rate, schedule),
    )
    rest = optax.chain(
        optax.scale_by_adam(c.beta1, c.beta2),
        optimizers.descend(c.vector_learning_rate, schedule),
    )
    transforms: dict[Any, optax.GradientTransformation] = {
        "matrix": matrices,
        "embedding": rest,
        "head": rest,
        "vector": rest,
    }
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.partition(transforms, optimizers.groups)
    )
