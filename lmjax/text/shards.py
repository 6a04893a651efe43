"""Shards: files of raw tokens, each a plain slice of one side of the corpus."""

from hashlib import sha256
from pathlib import Path

import numpy as np

from lmjax.text.manifest import DType, File
from lmjax.text.partial import sync


class Shards:
    """Files `SIDE-00000.bin` and on, filled one after the other."""

    def __init__(self, folder: Path, side: str, dtype: DType, most: int) -> None:
        """`most` is the number of tokens a file holds."""
        self._folder, self._side = folder, side
        self._token_bytes = np.dtype(dtype).itemsize
        self._limit = most * self._token_bytes
        self._files: list[File] = []
        self._digest, self._size = sha256(), 0

    @property
    def tokens(self) -> int:
        """Tokens in the files that are finished."""
        return sum(file.size for file in self._files) // self._token_bytes

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._side}-{len(self._files):05d}.bin"

    def write(self, tokens: bytes) -> None:
        """Append tokens, going on in a new file where one is full."""
        rest = memoryview(tokens)
        while len(rest):
            part, rest = rest[: self._limit - self._size], rest[self._limit - self._size :]
            with self._path.open("ab") as stream:
                stream.write(part)
            self._digest.update(part)
            self._size += len(part)
            if self._size == self._limit:
                self._finish()

    def _finish(self) -> None:
        sync(self._path)
        file = File(name=self._path.name, size=self._size, sha256=self._digest.hexdigest())
        self._files.append(file)
        self._digest, self._size = sha256(), 0

    def close(self) -> tuple[File, ...]:
        """Finish the last file; all of them."""
        if self._size:
            self._finish()
        return tuple(self._files)
