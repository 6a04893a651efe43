"""GPT-2 (124M; Radford et al. 2019) with AdamW and cosine, as llm.c and nanoGPT train it.

    python -m lmjax.train --config configs/gpt2.py --data fineweb10B

For GPT-2's tokens in nanoGPT's or modded-nanogpt's shards, on one GPU. Planned: neither its time
nor its loss has been measured with lmjax.
"""

import optax

from lmjax.config import (
    BatchConfig,
    Config,
    OptimizerConfig,
    ScheduleConfig,
    TransformerConfig,
)
from lmjax.learning import optimizers


def get_config() -> Config:
    return Config(
        budget="10Btokens",
        data="fineweb10B",
        run="runs/gpt2",
        model=TransformerConfig(
            vocab_size=50304,
            length=1024,
            depth=12,
            width=768,
            heads=12,
            activation="gelu",
            norm="layer",
            norm_gain=True,
            norm_epsilon=1e-5,
            embedding_norm=False,
            qk_norm=False,
            position="learned",
            bias=True,
            tied=True,
            softcap=None,
            embedding_std=0.02,
            matrix_std=0.02,
            projection_init="scaled",
        ),
        batch=BatchConfig(rows=512, micro_rows=32),
        optimizer=OptimizerConfig(
            learning_rate=6e-4, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, clip_norm=1.0
        ),
        schedule=ScheduleConfig(kind="cosine", warmup=0.037, floor=0.0),
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    return optimizers.adamw(config)
