"""Write text with a trained model: `python -m lmjax.generate --run runs/mine --prompt TEXT`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lmjax.config import parse_arguments
from lmjax.train import exit_codes


@dataclass(frozen=True, kw_only=True)
class Arguments:
    run: Path
    """The run folder; one that is still training can write too."""
    prompt: str
    """What the text begins with; may be empty."""
    step: int | None = None
    """A checkpoint's step; none means the newest that verifies."""
    max_tokens: int = 128
    """Tokens to write at most; the text ends earlier where the model ends the document."""
    temperature: float = 0.8
    """0 takes the likeliest token each time."""
    top_k: int | None = None
    """Draw from this many likeliest tokens only."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that reach this share of probability together."""
    seed: int = 0
    samples: int = 1
    """Texts to write; several are computed together and printed one after the other."""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(Arguments, "generate", __doc__, argv)
    from lmjax.runtime import memory

    memory.keep()
    with exit_codes():
        _write(arguments)


def _write(a: Arguments) -> None:
    from lmjax.runtime import device
    from lmjax.runtime.generation import complete
    from lmjax.runtime.restoring import restore, restore_tokenizer

    device.cache_compilations()
    tokenizer = restore_tokenizer(a.run)
    model, params, _ = restore(a.run, a.step)
    texts = complete(
        model,
        params,
        tokenizer,
        a.prompt,
        samples=a.samples,
        max_tokens=a.max_tokens,
        temperature=a.temperature,
        top_k=a.top_k,
        top_p=a.top_p,
        seed=a.seed,
    )
    for number, text in enumerate(texts, start=1):
        if a.samples > 1:
            print(f"--- {number} of {a.samples}")
        print(a.prompt, end="", flush=True)
        for piece in text:
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
