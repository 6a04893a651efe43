"""The first run: a small model of the prose in this Python installation, on two CPU cores.

    python -m lmjax.train --config configs/quickstart.py

Under four minutes with everything on two slow cores, one on fast ones, and the same 1.80 bits per
byte on both: the budget is in tokens. The text has 0.6M; in a time, a fast machine would read it so
often that it knows it by heart (of 3M tokens 1.84). For longer runs of little text there is dropout
(`--budget 3Mtokens --model.dropout 0.2`: 1.77). A budget this small wants few layers, short rows,
small batches, and parameters that cost no products: the value embedding. It also wants to be told
that text is local: a short window and the smear.
"""

from lmjax.config import (
    BatchConfig,
    CheckpointConfig,
    Config,
    EvaluationConfig,
    SampleConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)


def get_config() -> Config:
    return Config(
        budget="1Mtokens",
        data="corpora/python-docs",
        run="runs/quickstart",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=4096)),
        model=TransformerConfig(
            length=128,
            depth=2,
            width=192,
            heads=3,
            window=16,
            window_pattern="SL",
            value_embeddings=True,
            smear=True,
        ),
        batch=BatchConfig(rows=16),
        evaluation=EvaluationConfig(every="20%", max_rows=128),
        checkpoint=CheckpointConfig(every="30s"),
        sample=SampleConfig(prompts=("The function returns", "If the file", "A module that")),
    )
