"""SHA-256 of files, several at a time: one core digests slower than a disk reads."""

import hashlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lmjax.text.errors import DataError
from lmjax.text.workers import cores


def sha256(paths: Collection[Path]) -> dict[Path, str]:
    """The digest of each file, in hexadecimal. Raises DataError for one that cannot be read."""
    # Twice the cores: some wait for the disk while others digest.
    with ThreadPoolExecutor(2 * cores()) as threads:
        return dict(zip(paths, threads.map(_sha256, paths), strict=True))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
