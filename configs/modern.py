"""The default decoder: transformers' `NanoChatForCausalLM`, trained by Muon and Adam.

    python -m lmjax.train --config configs/modern.py

RMS norms without gains, squared ReLU, RoPE, norms of queries and keys, a capped untied head.
On two CPU cores; its time and result are not yet measured. `python -m tools.bench.models` trains
all small recipes alike: 400 steps of 16 rows of 128 tokens, some 1.7M parameters.
"""

from lmjax.config import (
    BatchConfig,
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
        budget="400steps",
        data="corpora/python-docs",
        run="runs/modern",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=TransformerConfig(
            length=128,
            depth=2,
            width=192,
            heads=3,
        ),
        batch=BatchConfig(rows=16),
        optimizer=OptimizerConfig(learning_rate=0.04),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )
