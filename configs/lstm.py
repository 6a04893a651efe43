"""Two layers of LSTM (Hochreiter and Schmidhuber 1997), every position predicted.

    python -m lmjax.train --config configs/lstm.py

Gradients reach through the whole row; `--model.truncate 32` cuts them, the state runs on.
On two CPU cores; its time and result are not yet measured. `python -m tools.bench.models` trains
all small recipes alike: 400 steps of 16 rows of 128 tokens, some 1.7M parameters.
"""

import optax

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    LSTMConfig,
    OptimizerConfig,
    SampleConfig,
    TextConfig,
    TokenizerConfig,
)
from lmjax.learning import optimizers


def get_config() -> Config:
    return Config(
        budget="400steps",
        data="corpora/python-docs",
        run="runs/lstm",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=LSTMConfig(
            length=128,
            depth=2,
            width=224,
        ),
        batch=BatchConfig(rows=16),
        optimizer=OptimizerConfig(
            learning_rate=0.003,
            beta1=0.9,
            beta2=0.99,
            epsilon=1e-8,
            weight_decay=0.0,
            clip_norm=1.0,
        ),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )


def make_optimizer(config: Config) -> optax.GradientTransformation:
    return optimizers.adamw(config)
