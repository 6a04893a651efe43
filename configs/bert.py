"""BERT (Devlin et al. 2019), small: an encoder, trained to guess masked tokens.

    python -m lmjax.train --config configs/bert.py

Norms after the sums, GELU, learned positions, a layer before the head; of a row 15% are predicted.
The number of tokens predicted in a row is fixed, so only they pay for the head. An encoder has no
next token: `lmjax.generate` refuses it.
Its own size is `--model.depth 12 --model.width 768 --model.heads 12 --model.length 512`.
On two CPU cores the loss of masked tokens is 6.11 nats after 300 steps of 16 rows of 128 tokens, in
less than six minutes, from 7.69: this little it has barely begun.
"""

from lmjax.config import (
    BatchConfig,
    Config,
    EvaluationConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TextConfig,
    TokenizerConfig,
    TransformerConfig,
)


def get_config() -> Config:
    return Config(
        budget="300steps",
        data="corpora/python-docs",
        run="runs/bert",
        text=TextConfig(tokenizer=TokenizerConfig(vocab_size=2048)),
        model=TransformerConfig(
            length=128,
            depth=3,
            width=192,
            heads=3,
            causal=False,
            activation="gelu_erf",
            norm="layer",
            norm_position="post",
            norm_gain=True,
            norm_epsilon=1e-12,
            qk_norm=False,
            position="learned",
            token_types=2,
            bias=True,
            tied=True,
            head_transform=True,
            head_bias=True,
            dropout=0.1,
            softcap=None,
            embedding_std=0.02,
            matrix_std=0.02,
            projection_init="same",
        ),
        objective=ObjectiveConfig(kind="masked", mask_rate=0.15),
        batch=BatchConfig(rows=16),
        optimizer=OptimizerConfig(embedding_learning_rate=0.03),
        evaluation=EvaluationConfig(every="25%", max_rows=128),
    )
