"""The faster side of a race on two CPU cores: the loss of `baseline_cpu`, sooner.

    python -m lmjax.train --config configs/speedrun_cpu.py

The same text, tokenizer and at most as many parameters. `python -m tools.bench.race` runs both, and
this one without each of its ingredients. Reached on 2026-11-27: 4.60 (three seeds, 4.572 to 4.626)
where the baseline ends at 4.70, in 26 seconds in place of 195, on two cores of an AMD EPYC; see
docs/performance.md.
"""

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    OptimizerConfig,
    RampConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)


def get_config() -> Config:
    return Config(
        budget="200ktokens",
        data="corpora/python-source",
        run="runs/speedrun-cpu",
        text=TextConfig(
            sources=("python:source",),
            tokenizer=TokenizerConfig(vocab_size=4096),
            validation=0.005,
        ),
        model=TransformerConfig(
            length=128,
            depth=2,
            width=192,
            heads=3,
            value_embeddings=True,
            smear=True,
            window=16,
            window_pattern="SL",
        ),
        batch=BatchConfig(rows=16),
        optimizer=OptimizerConfig(learning_rate=0.02),
        ramp=RampConfig(rows=((0.5, 8),)),
        evaluation=EvaluationConfig(every="100%"),
    )
