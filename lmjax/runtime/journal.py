"""The run folder's append-only files, one JSON object a line.

`metrics.jsonl` says what was computed and is the same, byte for byte, however often the run was
interrupted. `timing.jsonl` holds what the wall clock says. `events.jsonl` holds decisions.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmjax.text.errors import DataError

_BLOCK = 1 << 16


class Journal:
    """A file of JSON lines, open for appending; a torn last line of a killed writer is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab")
        self._file.truncate(next((end for end, _ in _backwards(path)), 0))

    def write(self, entry: dict[str, Any], durable: bool = False) -> None:
        """Append an object; `durable` waits until the disk has it."""
        self._file.write((json.dumps(entry) + "\n").encode())
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())

    def cut(self, step: int) -> None:
        """Drop what was written after `step`, at the end: steps only grow."""
        for end, line in _backwards(self.path):
            if _entry(line, f"{self.path}, line up to byte {end}")["step"] <= step:
                break
        else:
            end = 0
        self._file.truncate(end)
        os.fsync(self._file.fileno())

    def newest(self, key: str) -> dict[str, Any] | None:
        """The last line that has a key."""
        return newest(self.path, key)

    def close(self) -> None:
        self._file.close()


class Unwritten(Journal):
    """A journal that another process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, entry: dict[str, Any], durable: bool = False) -> None:
        pass

    def cut(self, step: int) -> None:
        pass

    def newest(self, key: str) -> None:
        pass

    def close(self) -> None:
        pass


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a journal, also of one being written; DataError names a bad line."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_entry(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def newest(path: Path, key: str) -> dict[str, Any] | None:
    """The last whole line that has a key: found from the end, whatever the length of the journal.

    DataError names a bad line.
    """
    quoted = json.dumps(key).encode()
    for end, line in _backwards(path):
        if quoted in line and key in (entry := _entry(line, f"{path}, line up to byte {end}")):
            return entry
    return None


def _entry(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected a JSON object, found {line[:60]!r}")
    return entry


def _backwards(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole lines from the last on, each with the place where it ends."""
    if not path.exists():
        return
    with path.open("rb") as file:
        end = begin = file.seek(0, os.SEEK_END)
        first, torn = b"", True
        while begin > 0:
            size = min(_BLOCK, begin)
            begin -= size
            file.seek(begin)
            first, *lines = (file.read(size) + first).split(b"\n")
            for line in reversed(lines):
                if not torn:
                    yield end, line
                end -= len(line) + (not torn)
                torn = False
        if not torn:
            yield end, first
