"""GPT-2 XL's grade in one day on one H100: karpathy/nanochat's d24.

    python -m tools.download fineweb-edu --tokens 10B --to texts/fineweb-edu
    python -m lmjax.train --config configs/day_h100.py

Planned, not yet run. The mark is CORE of at least 0.2565 (GPT-2, 1.5B); nanochat passes it with 8
to 9.5 tokens a scaling parameter (blocks' matrices and head, 730M) on eight H100s. 9.5 are 6.93B
tokens, 3.3e19 operations: 24 hours hold them from 43% of the card's peak on.
Data: some 10B tokens of FineWeb-Edu or, better, ClimbMix, as Parquet files.

`python -m lmjax.plan --config configs/day_h100.py --device h100` (forecasts, compiled by XLA of jax
0.10.2): micro-batches of 16 rows without remat, 61.5 GiB; 93.3k tokens/s, 44% MFU; in 24 hours 7.6B
tokens with 6% for what is no update. Twenty updates of 64 rows on an H100, 16 at a time, took 67.9
GiB with jax 0.11.2 and ran at 96.1k tokens/s, 45% MFU (docs/performance.md). For that choice:
--batch.micro-rows 16 --model.remat none, and XLA_PYTHON_CLIENT_MEM_FRACTION=0.92.
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
        run="runs/day-h100",
        text=TextConfig(
            sources=("texts/fineweb-edu",),
            tokenizer=TokenizerConfig(vocab_size=32_768, sample_bytes=200_000_000),
            validation=0.001,
        ),
        model=TransformerConfig(
            vocab_size=32_768,
            length=2048,
            depth=24,
            width=1536,
            heads=12,
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
        # nanochat's rules: rates x sqrt(batch / 2^19), of tables and head x (width / 768)^-0.5 too;
        # decay 0.28 x sqrt(batch / 2^19) x 1.16B / tokens.
        optimizer=OptimizerConfig(
            learning_rate=0.0283,
            embedding_learning_rate=0.3,
            head_learning_rate=0.008,
            weight_decay=0.066,
        ),
        schedule=ScheduleConfig(warmup=0.006, cooldown=0.65, floor=0.05),
        ramp=RampConfig(
            momentum=((0.0, 0.85), (0.06, 0.97), (0.35, 0.97), (1.0, 0.9)),
            weight_decay=((0.0, 1.0), (1.0, 0.0)),
        ),
        evaluation=EvaluationConfig(every="5%", max_rows=1024),
    )
