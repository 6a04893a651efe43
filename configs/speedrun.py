"""`modern` with the extras of the fastest public recipes, each a switch.

    python -m lmjax.train --config configs/speedrun.py

Value embeddings with gates, smear, backout (karpathy/nanochat, KellerJordan/modded-nanogpt), and
windows in every second layer that widen half-way. The value embeddings are a third of the
parameters and cost next to no arithmetic.
On two CPU cores 1.912 bits per byte after 300 steps of 16 rows of 128 tokens, in some 106 s, where
`modern` comes to 1.983. The scalars of each layer (`--model.layer-scalars`) are left out: with
them it is 1.928. `python -m tools.bench.models` has the table.
"""

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    RampConfig,
    SampleConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)


def get_config() -> Config:
    return Config(
        budget="300steps",
        data="corpora/python-docs",
        run="runs/speedrun",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=TransformerConfig(
            length=128,
            depth=4,
            width=128,
            heads=2,
            value_embeddings=True,
            smear=True,
            backout=True,
            window=64,
            window_pattern="SL",
        ),
        batch=BatchConfig(rows=16),
        ramp=RampConfig(window=((0.5, 16),)),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )
