"""SHA-256 of files, several at a time: one core digests slower than a disk reads."""

import hashlib
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lmjax.text.errors import DataError
from lmjax.text.workers import cores


def sha256(paths: Collection[Path]) -> dict[Path, str]:
    """The digest of each file, in hexadecimal. Raises DataError for one that cannot be read."""
    # Twice the cores: some wait for the disk while others digest.
    with ThreadPoolExecutor(2 * cores()) as threads:
        return dict(zip(paths, threads.map(_sha256, paths), strict=True))


def check(expected: Mapping[Path, str], remedy: str) -> None:
    """Hold files against their digests. Raises DataError, which ends with `remedy`, for the first
    that differs or one that cannot be read."""
    try:
        found = sha256(expected)
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from None
    for path, digest in expected.items():
        if found[path] != digest:
            raise DataError(f"{path}: expected SHA-256 {digest}, found {found[path]}; {remedy}")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
