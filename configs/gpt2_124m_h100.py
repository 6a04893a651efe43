"""GPT-2's size (124M) to a loss of 3.28 on FineWeb, on one H100: modded-nanogpt's mark.

    python -m lmjax.train --config configs/gpt2_124m_h100.py --data fineweb10B

Planned, not yet run. llm.c's baseline takes 10B tokens to 3.28; 3,250 updates of 524,288 tokens
reach it with Muon in modded-nanogpt's optimizer benchmark, whose sizes and rates these are. Twelve
layers 768 wide, with an untied head: 162M parameters, of which a tied one would save 39M.
Data: GPT-2's tokens in modded-nanogpt's shards (kjj0/fineweb10B-gpt2), 1.7B of them in the first
18 files. The mark is the mean over the first 10,240 rows of the validation shard.

`python -m lmjax.plan --config configs/gpt2_124m_h100.py --device h100` (forecasts, compiled by
XLA of jax 0.10.2): micro-batches of 128 rows without remat, 45.6 GiB; 462k tokens/s, 37% MFU:
1.1 hours with 6% for what is no update. Twenty steps on an H100, where auto chose alike, took 45.9
GiB and ran at 464k tokens/s (docs/performance.md).
"""

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    OptimizerConfig,
    ScheduleConfig,
    TransformerConfig,
)


def get_config() -> Config:
    return Config(
        budget="3250steps",
        data="fineweb10B",
        run="runs/gpt2-124m-h100",
        model=TransformerConfig(
            vocab_size=50_304,
            length=1024,
            depth=12,
            width=768,
            heads=6,
            norm_gain=True,
            embedding_std=1.0,
            remat="auto",
        ),
        batch=BatchConfig(rows=512, micro_rows="auto", packing="contiguous"),
        optimizer=OptimizerConfig(
            learning_rate=0.025,
            embedding_learning_rate=0.7,
            head_learning_rate=0.004,
            vector_learning_rate=0.015,
            weight_decay=0.05,
        ),
        schedule=ScheduleConfig(warmup=0.0, cooldown=0.7),
        evaluation=EvaluationConfig(every="500steps", max_rows=10_240),
    )
