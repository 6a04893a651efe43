"""An encoder in one day on one GPU, after Geiping and Goldstein 2022 and Portes et al. 2023.

    python -m lmjax.train --config configs/bert_day.py --data corpora/web

RMS norms before the sublayers, no biases, RoPE, a gated GELU, norms of queries and keys; 30% of a
row predicted; Muon and Adam, no dropout. 120M parameters at a vocabulary of 32,768. Planned:
neither its time nor its loss has been measured with lmjax.
"""

from lmjax.config import (
    BatchConfig,
    Config,
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)


def get_config() -> Config:
    return Config(
        budget="24h",
        data="corpora/web",
        run="runs/bert-day",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=32_704)),
        model=TransformerConfig(
            vocab_size=32_768,
            length=128,
            depth=16,
            width=768,
            heads=12,
            ff_width=1536,
            causal=False,
            activation="geglu",
            norm_gain=True,
            tied=True,
            softcap=None,
            embedding_std=0.02,
            matrix_std=0.02,
            projection_init="scaled",
        ),
        objective=ObjectiveConfig(kind="masked", mask_rate=0.3),
        batch=BatchConfig(rows=4096, micro_rows=256),
        optimizer=OptimizerConfig(embedding_learning_rate=0.01),
        schedule=ScheduleConfig(kind="triangular"),
    )
