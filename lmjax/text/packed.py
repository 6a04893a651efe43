"""The bytes inside a .gz or .zst file, as a stream that notices when the file was cut short."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from lmjax.text.errors import DataError

# A few bytes of zstd can hold 128 KiB; so small a block never unpacks to more than some 30 MB.
_BLOCK_BYTES = 1 << 10


@contextmanager
def unpacked(path: Path, raw: BinaryIO) -> Iterator[BinaryIO]:
    """The bytes inside a .gz or .zst file, or the file's own.

    Raises DataError for a damaged or incomplete file, and where the `zstd` extra is missing.
    """
    if path.suffix == ".gz":
        try:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: expected a whole gzip file, {error}") from None
    elif path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise DataError(f"{path}: needs zstandard; pip install 'lmjax[zstd]'") from None
        try:
            yield io.BufferedReader(_ZstdFile(raw, zstandard.ZstdDecompressor()), 1 << 20)
        except (zstandard.ZstdError, EOFError) as error:
            raise DataError(f"{path}: expected a whole zstd file, {error}") from None
    else:
        yield raw


class _ZstdFile(io.RawIOBase):
    """Frames one after the other. zstandard's own stream takes half a frame for a whole one."""

    def __init__(self, raw: BinaryIO, decompressor: Any) -> None:
        self._raw, self._decompressor = raw, decompressor
        self._frame, self._ready = None, memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill as much of the buffer as is ready; 0 at the end."""
        while not self._ready:
            packed = self._raw.read(_BLOCK_BYTES)
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends in the middle")
                return 0
            frame = self._frame or self._decompressor.decompressobj()
            self._ready = memoryview(frame.decompress(packed))
            self._frame = None if frame.eof else frame
            self._raw.seek(-len(frame.unused_data), io.SEEK_CUR)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count
