"""The first run: a small model of the prose in this Python installation, on two CPU cores.

    python -m lmjax.train --config configs/quickstart.py

Under four minutes with everything, on two cores: 1.81 to 1.83 bits per byte. Cores three times as
fast read this little text five times in that and learn it by heart (1.84 to 1.86): there give them
more text, or `--budget 1Mtokens` (1.80). A budget
this small wants few layers, short rows, small batches, and parameters that cost no products: the
value embedding. It also wants to be told that text is local: a short window and the smear.
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
        budget="175s",
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
