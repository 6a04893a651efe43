"""The first run: a small model of the prose in this Python installation, on two CPU cores.

    python -m lmjax.train --config configs/quickstart.py

Under four minutes with everything. A budget this small, some 800,000 tokens, wants few layers,
short rows and small batches.
"""

from lmjax.config import (
    BatchConfig,
    CheckpointConfig,
    Config,
    EvaluationConfig,
    OptimizerConfig,
    SampleConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)


def get_config() -> Config:
    return Config(
        budget="190s",
        data="corpora/python-docs",
        run="runs/quickstart",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=TransformerConfig(length=128, depth=2, width=192, heads=3),
        batch=BatchConfig(rows=16),
        optimizer=OptimizerConfig(learning_rate=0.04),
        evaluation=EvaluationConfig(every="20%", max_rows=128),
        checkpoint=CheckpointConfig(every="30s"),
        sample=SampleConfig(prompts=("The function returns", "If the file", "A module that")),
    )
