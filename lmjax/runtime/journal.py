"""The run folder's append-only files, one JSON object a line.

`metrics.jsonl` says what was computed and is the same, byte for byte, however often the run was
interrupted. `timing.jsonl` holds what the wall clock says. `events.jsonl` holds decisions.
"""

import json
import os
from pathlib import Path
from typing import Any

from lmjax.text.errors import DataError


class Journal:
    """A file of JSON lines, open for appending; a torn last line of a killed writer is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        keep = len("".join(json.dumps(entry) + "\n" for entry in read(path)).encode())
        self._file = path.open("ab")
        self._file.truncate(keep)

    def write(self, entry: dict[str, Any], durable: bool = False) -> None:
        """Append an object; `durable` waits until the disk has it."""
        self._file.write((json.dumps(entry) + "\n").encode())
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())

    def cut(self, step: int) -> None:
        """Drop what was written after `step`; written to the side and renamed into place."""
        kept = [entry for entry in read(self.path) if entry["step"] <= step]
        side = self.path.with_suffix(".tmp")
        with side.open("wb") as file:
            file.writelines((json.dumps(entry) + "\n").encode() for entry in kept)
            file.flush()
            os.fsync(file.fileno())
        self._file.close()
        side.replace(self.path)
        self._file = self.path.open("ab")

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

    def close(self) -> None:
        pass


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a journal, also of one being written; DataError names a bad line."""
    if not path.exists():
        return []
    entries = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object, found {line[:60]!r}")
        entries.append(entry)
    return entries
