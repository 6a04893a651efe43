"""JSON that others may have written: read only so far as it is small, and an object."""

import json
from pathlib import Path
from typing import Any

from lmjax.text.errors import DataError

_MOST_BYTES = 4 << 20
"""Parsed, JSON can take some twenty times its length in memory."""


def read(path: Path, most: int = _MOST_BYTES) -> dict[str, Any]:
    """The object a file holds. Raises DataError naming the file and what it is instead."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise DataError(f"{path}: expected a JSON object, found: {error.strerror}") from None
    if len(content) > most:
        raise DataError(f"{path}: expected at most {most >> 20} MiB, found more")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected a JSON object, {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value
