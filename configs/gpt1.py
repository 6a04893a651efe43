"""GPT (Radford et al. 2018), small: norms after the sums, GELU, learned positions.

    python -m lmjax.train --config configs/gpt1.py

Its own size is `--model.depth 12 --model.width 768 --model.heads 12 --model.length 512`, with
dropout of 0.1.
On two CPU cores 2.074 bits per byte after 300 steps of 16 rows of 128 tokens, in 181 s;
`python -m tools.bench.models` trains all small recipes alike, 1.8M parameters this one.
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
        run="runs/gpt1",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=TransformerConfig(
            length=128,
            depth=3,
            width=192,
            heads=3,
            activation="gelu",
            norm="layer",
            norm_gain=True,
            norm_epsilon=1e-05,
            embedding_norm=False,
            qk_norm=False,
            position="learned",
            bias=True,
            tied=True,
            softcap=None,
            embedding_std=0.02,
            matrix_std=0.02,
            norm_position="post",
            projection_init="same",
        ),
        batch=BatchConfig(rows=16),
        optimizer=OptimizerConfig(embedding_learning_rate=0.03),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )
