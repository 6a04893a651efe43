"""What to read: from paths, folders, globs and `python:*` to files, in a fixed order."""

import glob
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lmjax.config import ConfigError
from lmjax.text import python_library
from lmjax.text.errors import DataError

Format = Literal["txt", "jsonl", "parquet", "code", "prose"]

SUFFIXES = (
    *(f".{kind}{packed}" for kind in ("txt", "jsonl") for packed in ("", ".gz", ".zst")),
    ".parquet",
)

_MAX_FILES = 200_000


@dataclass(frozen=True)
class Source:
    """A file to read, as it was when it was looked at."""

    path: Path
    format: Format
    size: int
    mtime_ns: int

    @property
    def text_bytes(self) -> int:
        """A guess at the bytes of text inside."""
        packed = self.path.suffix in (".gz", ".zst", ".parquet")
        return self.size * (4 if packed else 1)


def resolve(patterns: Iterable[str]) -> list[Source]:
    """The files behind the names, each once.

    Raises DataError for a name with nothing behind it, ConfigError for one that cannot be.
    """
    found: dict[Path, Source] = {}
    for pattern in patterns:
        for path, format in _expand(pattern):
            stat = path.stat()
            found.setdefault(path, Source(path, format, stat.st_size, stat.st_mtime_ns))
    if len(found) > _MAX_FILES:
        raise DataError(
            f"text.sources: expected at most {_MAX_FILES:,} files, found {len(found):,}; "
            "join them into .jsonl files, a document a line"
        )
    return list(found.values())


def _expand(pattern: str) -> Iterator[tuple[Path, Format]]:
    if pattern.startswith("python:"):
        match pattern:
            case "python:docs":
                yield from ((path, "prose") for path in python_library.files(tests=False))
            case "python:source":
                yield from ((path, "code") for path in python_library.files(tests=True))
            case _:
                raise ConfigError(
                    f"text.sources: expected python:docs or python:source, found {pattern}"
                )
        return
    path = Path(pattern).expanduser()
    if path.is_file():
        yield path.resolve(), _format(path)
        return
    if path.is_dir():
        paths = [p for p in path.rglob("*") if p.name.endswith(SUFFIXES) and p.is_file()]
    else:
        matches = map(Path, glob.glob(str(path), recursive=True))
        paths = [p for p in matches if p.name.endswith(SUFFIXES) and p.is_file()]
        if not path.exists() and not glob.has_magic(pattern):
            raise DataError(f"text.sources: expected a file, folder or glob, found none at {path}")
    if not paths:
        raise DataError(
            f"text.sources: expected files ending in {', '.join(SUFFIXES)}, "
            f"found none of them in {path}"
        )
    yield from ((p.resolve(), _format(p)) for p in sorted(paths))


def _format(path: Path) -> Format:
    for format in ("txt", "jsonl"):
        if path.name.endswith((f".{format}", f".{format}.gz", f".{format}.zst")):
            return format
    if path.suffix == ".parquet":
        return "parquet"
    raise DataError(
        f"{path}: expected a file ending in {', '.join(SUFFIXES)}; rename plain text to .txt"
    )


def describe(sources: Iterable[Source]) -> dict[str, tuple[int, ...]]:
    """Size and time of change of each file, by its path: enough to tell that nothing changed.

    The standard library stands under its own name, with its count and total size.
    """
    described: dict[str, tuple[int, ...]] = {}
    for source in sources:
        if source.format in ("prose", "code"):
            kind = "docs" if source.format == "prose" else "source"
            name = f"python:{kind} {sys.version}"
            size, count = described.get(name, (0, 0))
            described[name] = size + source.size, count + 1
        else:
            described[str(source.path)] = source.size, source.mtime_ns
    return described
