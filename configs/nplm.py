"""The neural probabilistic language model (Bengio et al. 2003), with direct connections.

    python -m lmjax.train --config configs/nplm.py

Each token from the eight before it: their embeddings side by side, a tanh layer, the vocabulary.
On two CPU cores 2.246 bits per byte after 300 steps of 16 rows of 128 tokens, in 71 s;
`python -m tools.bench.models` trains all small recipes alike, 1.7M parameters this one.
"""

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    NPLMConfig,
    SampleConfig,
    TextConfig,
    TokenizerConfig,
)


def get_config() -> Config:
    return Config(
        budget="300steps",
        data="corpora/python-docs",
        run="runs/nplm",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=NPLMConfig(
            length=128,
            context=8,
            width=56,
            hidden=256,
        ),
        batch=BatchConfig(rows=16),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
        sample=SampleConfig(prompts=("The function returns",)),
    )
