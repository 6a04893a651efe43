"""Raw text to a corpus folder: clean documents, a tokenizer, shards of tokens.

    python -m lmjax.prepare --input PATH [PATH ...] --out corpora/mine [--vocab-size 8192]
    python -m lmjax.prepare --config FILE [--text.cleaning.lower True ...]

The second form takes its text and its folder (`data`) from a recipe, as training does.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmjax.config import ConfigError, TextConfig, parse_arguments, parse_command_line
from lmjax.text.corpus import prepare
from lmjax.text.errors import DataError


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What the first form of the command takes."""

    input: tuple[str, ...]
    """Files, folders, globs, or python:docs and python:source, which every Python carries."""
    out: Path
    """The corpus folder to make."""
    vocab_size: int | None = None
    """Pieces of the tokenizer; short for --text.tokenizer.vocab-size."""
    tokenizer: str | None = None
    """An existing .model or tokenizer.json to use; short for --text.tokenizer.file."""
    text: TextConfig = field(default_factory=TextConfig)

    def settings(self) -> TextConfig:
        """The text section with the short forms put in."""
        if self.text.sources != TextConfig().sources:
            raise ConfigError("--text.sources: expected the sources behind --input only")
        if self.tokenizer is not None and self.vocab_size is not None:
            raise ConfigError(
                "--vocab-size: expected none, since --tokenizer brings its own pieces"
            )
        short = {"vocab_size": self.vocab_size, "file": self.tokenizer}
        given = {name: value for name, value in short.items() if value is not None}
        tokenizer = dataclasses.replace(self.text.tokenizer, **given)  # type: ignore[arg-type]
        return dataclasses.replace(self.text, sources=self.input, tokenizer=tokenizer)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 65 bad data, 78 bad config, 130 interrupted."""
    try:
        prepare(*_parse(list(sys.argv[1:] if argv is None else argv)))
    except (DataError, ConfigError) as error:
        print(f"lmjax: {error}", file=sys.stderr)
        return 65 if isinstance(error, DataError) else 78
    except KeyboardInterrupt:
        print("lmjax: interrupted; nothing is left behind", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: list[str]) -> tuple[TextConfig, Path]:
    if any(argument.split("=")[0] == "--config" for argument in arguments):
        config = parse_command_line("prepare", __doc__, arguments).config
        return config.text, Path(config.data)
    given = parse_arguments(CommandLine, "prepare", __doc__, arguments)
    return given.settings(), given.out


if __name__ == "__main__":
    sys.exit(main())
