"""Qwen3 (Qwen Team 2025), small: Llama's block with norms of queries and keys.

    python -m lmjax.train --config configs/qwen3.py

Heads are wider than width / heads, the rotation's base is a million, the head is tied.
On two CPU cores; its time and result are not yet measured. `python -m tools.bench.models` trains
all small recipes alike: 400 steps of 16 rows of 128 tokens, some 1.7M parameters.
"""

import optax

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    OptimizerConfig,
    SampleConfig,
    ScheduleConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)
from lmjax.learning import optimizers


def get_config() -> Config:
    return Config(
        budget="400steps",
        data="corpora/python-docs",
        run="runs/qwen3",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=TransformerConfig(
            length=128,
            depth=3,
            width=192,
            heads=4,
            kv_heads=2,
            ff_width=512,
            activation="swiglu",
            norm_gain=True,
            norm_epsilon=1e-06,
            embedding_norm=False,
            qk_norm=True,
            softcap=None,
            embedding_std=0.02,
            head_std=0.02,
            matrix_std=0.02,
            projection_init="scaled",
            head_width=64,
            rope_base=1000000.0,
            tied=True,
        ),
        batch=BatchConfig(rows=16),
        optimizer=OptimizerConfig(
            learning_rate=0.002, beta1=0.9, beta2=0.95, epsilon=1e-8, clip_norm=1.0
        ),
        schedule=ScheduleConfig(kind="cosine", warmup=0.1),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    return optimizers.adamw(config)
