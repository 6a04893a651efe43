"""Qwen3 (Qwen Team 2025), small: Llama's block with norms of queries and keys.

    python -m lmjax.train --config configs/qwen3.py

Heads are wider than width / heads, the rotation's base is a million, the head is tied.
On two CPU cores 1.984 bits per byte after 300 steps of 16 rows of 128 tokens, in 203 s;
`python -m tools.bench.models` trains all small recipes alike, 1.7M parameters this one.
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
        budget="300steps",
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
        optimizer=OptimizerConfig(embedding_learning_rate=0.03),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )
