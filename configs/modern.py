"""The default decoder: transformers' `NanoChatForCausalLM`, trained by Muon and Adam.

    python -m lmjax.train --config configs/modern.py

RMS norms without gains, squared ReLU, RoPE, norms of queries and keys, a capped untied head.
On two CPU cores 1.983 bits per byte after 300 steps of 16 rows of 128 tokens, in 104 s;
`python -m tools.bench.models` trains all small recipes alike, 1.7M parameters this one.
"""

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    SampleConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)


def get_config() -> Config:
    return Config(
        budget="300steps",
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
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )
