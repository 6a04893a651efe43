"""`modern` with the extras of the fastest public recipes, each a switch.

    python -m lmjax.train --config configs/speedrun.py

Value embeddings with gates, scalars of each layer, smear, backout (karpathy/nanochat,
KellerJordan/modded-nanogpt), and windows in every second layer. The value embeddings are a third
of the parameters and cost next to no arithmetic.
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
        run="runs/speedrun",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=TransformerConfig(
            length=128,
            depth=4,
            width=128,
            heads=2,
            value_embeddings=True,
            layer_scalars=True,
            smear=True,
            backout=True,
            window=64,
            window_pattern="SL",
        ),
        batch=BatchConfig(rows=16),
        optimizer=OptimizerConfig(learning_rate=0.04),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )
