"""Two layers of LSTM (Hochreiter and Schmidhuber 1997), every position predicted.

    python -m lmjax.train --config configs/lstm.py

Gradients reach through the whole row; `--model.truncate 32` cuts them, the state runs on.
On two CPU cores 2.110 bits per byte after 300 steps of 16 rows of 128 tokens, in 107 s;
`python -m tools.bench.models` trains all small recipes alike, 1.7M parameters this one.
"""

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    LSTMConfig,
    SampleConfig,
    TextConfig,
    TokenizerConfig,
)


def get_config() -> Config:
    return Config(
        budget="300steps",
        data="corpora/python-docs",
        run="runs/lstm",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=LSTMConfig(
            length=128,
            depth=2,
            width=224,
        ),
        batch=BatchConfig(rows=16),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )
