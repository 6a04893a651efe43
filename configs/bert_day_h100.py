"""An encoder of BERT-large's shape in one day on one H100; the mark is BERT-base's GLUE, 80.9.

    python -m tools.download fineweb-edu --tokens 20B --to texts/fineweb-edu
    python -m lmjax.train --config configs/bert_day_h100.py

Planned, not yet run. Cramming (Geiping and Goldstein 2022) comes to 80.4 in a day on an A6000, with
119M parameters; an H100 has six times its arithmetic. So: 24 layers 1,024 wide, RMS norms before
the sublayers, no biases, RoPE, a gated GELU, norms of queries and keys, no dropout; 30% of a row
predicted (Portes et al. 2023); Muon and Adam. Rows are cut into pieces of 128 tokens for the first
80%, batches grow from 0.26M to 1.05M tokens. Data: some 20B tokens of FineWeb-Edu, seen once.

`python -m lmjax.plan --config configs/bert_day_h100.py --device h100` (forecasts, compiled by XLA
of jax 0.10.2): micro-batches of 128 rows without remat, 60.7 GiB; 230k tokens/s with rows of 512,
40% MFU; in 24 hours 18.7B tokens.
"""

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    ObjectiveConfig,
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
        data="corpora/fineweb-edu-encoder",
        run="runs/bert-day-h100",
        text=TextConfig(
            sources=("texts/fineweb-edu",),
            tokenizer=TokenizerConfig(vocab_size=32_704, sample_bytes=200_000_000),
            validation=0.001,
        ),
        model=TransformerConfig(
            vocab_size=32_768,
            length=512,
            depth=24,
            width=1024,
            heads=16,
            ff_width=2048,
            causal=False,
            activation="geglu",
            norm_gain=True,
            tied=True,
            softcap=None,
            embedding_std=0.02,
            matrix_std=0.02,
            projection_init="scaled",
            remat="auto",
        ),
        objective=ObjectiveConfig(kind="masked", mask_rate=0.3),
        batch=BatchConfig(rows=2048, micro_rows="auto"),
        optimizer=OptimizerConfig(embedding_learning_rate=0.01),
        schedule=ScheduleConfig(cooldown=0.5),
        ramp=RampConfig(rows=((0.2, 512), (0.4, 1024)), length=((0.8, 128),)),
        evaluation=EvaluationConfig(every="5%", max_rows=2048),
    )
