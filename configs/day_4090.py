"""One day on one RTX 4090: karpathy/nanochat's d16.

    python -m tools.download fineweb-edu --tokens 5B --to texts/fineweb-edu
    python -m lmjax.train --config configs/day_4090.py

Planned, not yet run. The depth is the dial's (`lmjax.plan --size auto --budget 24h --device 4090`):
235M scaling parameters, with the value embeddings 537M in all, at 14 tokens each.
Data: some 5B tokens of FineWeb-Edu or, better, ClimbMix, as Parquet files.

`python -m lmjax.plan --config configs/day_4090.py --device 4090` (forecasts, compiled by XLA of
jax 0.10.2): micro-batches of 8 rows without remat, 18.2 GiB; 48.3k tokens/s, 45% MFU; in 24 hours
3.9B tokens. To hold to that choice: --batch.micro-rows 8 --model.remat none; auto in train goes by
formula, with more caution. JAX takes 75% of a card: set XLA_PYTHON_CLIENT_MEM_FRACTION=0.92.
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
        run="runs/day-4090",
        text=TextConfig(
            sources=("texts/fineweb-edu",),
            tokenizer=TokenizerConfig(vocab_size=32_768, sample_bytes=200_000_000),
            validation=0.001,
        ),
        model=TransformerConfig(
            vocab_size=32_768,
            length=2048,
            depth=16,
            width=1024,
            heads=8,
            rope_base=100_000.0,
            attention_scale=0.127,  # 1.2 on queries and on keys, over the root of 128
            window=512,
            window_pattern="SSSL",
            value_embeddings=True,
            layer_scalars=True,
            smear=True,
            backout=True,
            remat="auto",
        ),
        batch=BatchConfig(rows=512, micro_rows="auto"),
        optimizer=OptimizerConfig(
            learning_rate=0.0283,
            embedding_learning_rate=0.367,
            head_learning_rate=0.0098,
            weight_decay=0.137,
        ),
        schedule=ScheduleConfig(warmup=0.012, cooldown=0.65, floor=0.05),
        ramp=RampConfig(
            momentum=((0.0, 0.85), (0.12, 0.97), (0.35, 0.97), (1.0, 0.9)),
            weight_decay=((0.0, 1.0), (1.0, 0.0)),
        ),
        evaluation=EvaluationConfig(every="5%", max_rows=512),
    )
