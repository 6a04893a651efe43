"""The slower side of a race on two CPU cores: GPT-2's architecture, AdamW, cosine.

    python -m lmjax.train --config configs/baseline_cpu.py

The text is the source of Python's library: no token is seen twice. Its learning rate is the best of
0.001, 0.002, 0.004 and 0.008. Reached on 2026-11-27: a validation loss of 4.70 (three seeds, 4.685
to 4.715) in 195 seconds of data and steps on two cores of an AMD EPYC; see docs/performance.md.
"""

import optax

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    OptimizerConfig,
    ScheduleConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from lmjax.learning import optimizers


def get_config() -> Config:
    return Config(
        budget="1Mtokens",
        data="corpora/python-source",
        run="runs/baseline-cpu",
        text=TextConfig(
            sources=("python:source",),
            tokenizer=TokenizerConfig(vocab_size=4096),
            validation=0.005,
        ),
        model=TransformerConfig(
            length=128,
            depth=4,
            width=224,
            heads=4,
            activation="gelu",
            norm="layer",
            norm_gain=True,
            norm_epsilon=1e-05,
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
        batch=BatchConfig(rows=16),
        optimizer=OptimizerConfig(
            learning_rate=0.002, beta1=0.9, beta2=0.95, epsilon=1e-8, clip_norm=1.0
        ),
        schedule=ScheduleConfig(kind="cosine", warmup=0.05),
        evaluation=EvaluationConfig(every="100%"),
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    return optimizers.adamw(config)
