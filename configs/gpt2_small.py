"""GPT-2 (Radford et al. 2019), small, for a CPU: norms before the sublayers.

    python -m lmjax.train --config configs/gpt2_small.py

`configs/gpt2.py` has its own size.
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
        run="runs/gpt2_small",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=TransformerConfig(
            length=128,
            depth=3,
            width=192,
            heads=3,
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
        schedule=ScheduleConfig(kind="cosine", warmup=0.1),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    return optimizers.adamw(config)
