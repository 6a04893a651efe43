"""A run folder to a Hugging Face folder, or back: `python -m lmjax.convert SOURCE DESTINATION`.

The direction is told by what SOURCE holds. What was written is read back and its outputs compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from lmjax.config import ConfigError, parse_arguments
from lmjax.text.errors import DataError
from lmjax.train import exit_codes


@dataclass(frozen=True, kw_only=True)
class Arguments:
    source: Positional[Path]
    """A run folder, or a folder with config.json and safetensors."""
    destination: Positional[Path]
    """The folder to make; must not exist, or be empty."""
    step: int | None = None
    """A run's checkpoint; none means the newest that verifies."""


def convert(source: Path, destination: Path, step: int | None = None) -> None:
    """Import or export, and compare.

    Raises ConfigError for what cannot be expressed, DataError for what cannot be read or differs.
    """
    from lmjax.interop import exporting, importing

    if not source.is_dir():
        raise DataError(f"{source}: expected a folder, found none")
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise DataError(f"{destination}: expected no such folder or an empty one; give another")
    if not importing.describes(source):
        exporting.export(source, destination, step)
        return
    if step is not None:
        raise ConfigError("--step: expected none, since SOURCE is not a run folder")
    importing.import_folder(source, destination)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(Arguments, "convert", __doc__, argv)
    with exit_codes():
        from lmjax.runtime import console

        convert(arguments.source, arguments.destination, arguments.step)
        console.say(f"{arguments.destination}: done")


if __name__ == "__main__":
    main()
