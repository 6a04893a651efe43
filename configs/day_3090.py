"""One day on one RTX 3090: karpathy/nanochat's dial at d14.

    python -m tools.download fineweb-edu --tokens 3B --to texts/fineweb-edu
    python -m lmjax.train --config configs/day_3090.py

Planned, not yet run. The depth is the dial's (`lmjax.plan --size auto --budget 24h --device 3090`):
164M scaling parameters, with the value embeddings 399M in all, at 12 to 16 tokens each.
Data: some 3B tokens of FineWeb-Edu or, better, ClimbMix, as Parquet files.

`python -m lmjax.plan --config configs/day_3090.py --device 3090` (forecasts, compiled by XLA of
jax 0.10.2): micro-batches of 8 rows without remat, 14.7 GiB; 32.9k tokens/s, 51% MFU; in 24 hours
2.7B tokens. JAX takes 75% of a card: set XLA_PYTHON_CLIENT_MEM_FRACTION=0.92.
"""

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    OptimizerConfig,
    RampConfig,
    ScheduleConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)


def get_config() -> Config:
    return Config(
        budget="24h",
        data="corpora/fineweb-edu",
        run="runs/day-3090",
        text=TextConfig(
            sources=("texts/fineweb-edu",),
            tokenizer=TokenizerConfig(vocab_size=32_768, sample_bytes=200_000_000),
            validation=0.001,
        ),
        model=TransformerConfig(
            vocab_size=32_768,
            length=2048,
            depth=14,
            width=896,
            heads=7,
            rope_base=100_000.0,
            attention_scale=0.127,  # 1.2 on queries and on keys, over the root of 128
            window=512,
            window_pattern="SL",
            value_embeddings=True,
            layer_scalars=True,
            smear=True,
            remat="auto",
        ),
        batch=BatchConfig(rows=256, micro_rows="auto"),
        optimizer=OptimizerConfig(
            learning_rate=0.02,
            embedding_learning_rate=0.278,
            head_learning_rate=0.00741,
            weight_decay=0.16,
        ),
        schedule=ScheduleConfig(warmup=0.01, cooldown=0.65, floor=0.05),
        ramp=RampConfig(
            momentum=((0.0, 0.85), (0.1, 0.97), (0.35, 0.97), (1.0, 0.9)),
            weight_decay=((0.0, 1.0), (1.0, 0.0)),
        ),
        evaluation=EvaluationConfig(every="5%", max_rows=256),
    )
