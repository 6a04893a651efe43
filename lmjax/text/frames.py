"""Lists of byte strings on a stream: how processes talk, and how cleaned text waits on disk."""

from array import array
from collections.abc import Iterator, Sequence
from typing import BinaryIO

_WORD = array("Q").itemsize


def write(stream: BinaryIO, blobs: Sequence[bytes]) -> int:
    """Write one frame; returns its length in bytes."""
    head = array("Q", [len(blobs), *map(len, blobs)]).tobytes()
    body = b"".join(blobs)
    stream.write(head)
    stream.write(body)
    return len(head) + len(body)


def read(stream: BinaryIO) -> list[bytes] | None:
    """Read one frame; none at the end of the stream. Raises EOFError for half a frame."""
    first = stream.read(_WORD)
    if not first:
        return None
    (count,) = array("Q", _whole(first, _WORD))
    lengths = array("Q", _whole(stream.read(count * _WORD), count * _WORD))
    body = _whole(stream.read(sum(lengths)), sum(lengths))
    return list(_slices(body, lengths))


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise EOFError(f"expected {length} bytes, found {len(data)}")
    return data


def _slices(body: bytes, lengths: Sequence[int]) -> Iterator[bytes]:
    start = 0
    for length in lengths:
        yield body[start : start + length]
        start += length
