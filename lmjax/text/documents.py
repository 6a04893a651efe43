"""From files to documents: read in chunks by the parent, made into text by the workers.

A raw document is bytes. What they mean, its format tells: see `parse`.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lmjax.config import TextConfig
from lmjax.text import python_library
from lmjax.text.errors import DataError
from lmjax.text.packed import unpacked
from lmjax.text.sources import Format, Source

_MAX_ROW_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_CHUNK_DOCUMENTS = 2_000
_BLOCK_CHARS = 1 << 20
# Text in an old one-byte encoding has a few invalid bytes; another encoding, or no text, has many.
_MAX_INVALID = 0.2


@dataclass
class Chunk:
    """Raw documents of one format, enough of them to be worth sending to another process."""

    format: Format
    documents: list[bytes] = field(default_factory=list)
    places: list[tuple[Path, int]] = field(default_factory=list)
    """The file of each document, and its line there; 0 where lines tell nothing."""
    done: int = 0
    """Bytes of the sources read when the chunk was full."""

    def place(self, index: int) -> str:
        """Where a document came from, for messages."""
        path, line = self.places[index]
        return f"{path}, line {line}" if line else str(path)


def chunks(sources: Iterable[Source], config: TextConfig) -> Iterator[Chunk]:
    """Read the sources, never more of them than a chunk at a time.

    Raises DataError for a file that is not what its name says.
    """
    before, chunk, size = 0, None, 0
    for source in sources:
        with _open(source.path) as raw:
            for document, line in _READERS[source.format](source, raw, config):
                if chunk is not None and chunk.format != source.format:
                    yield chunk
                    chunk = None
                if chunk is None:
                    chunk, size = Chunk(source.format), 0
                chunk.documents.append(document)
                chunk.places.append((source.path, line))
                size += len(document)
                if size >= _CHUNK_BYTES or len(chunk.documents) >= _CHUNK_DOCUMENTS:
                    chunk.done = before + raw.tell()
                    yield chunk
                    chunk = None
        before += source.size
        if chunk is not None:
            chunk.done = before
    if chunk is not None:
        yield chunk


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _read_txt(source: Source, raw: BinaryIO, config: TextConfig) -> Iterator[tuple[bytes, int]]:
    with unpacked(source.path, raw) as stream:
        # Invalid bytes travel as surrogates and come back as they were.
        reader = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline=None)
        rest, block, first = "", "", True
        while block := reader.read(_BLOCK_CHARS):
            if "\0" in block or (first and _share_invalid(block) > _MAX_INVALID):
                raise DataError(
                    f"{source.path}: expected UTF-8 text, found a binary file or another encoding; "
                    "convert it, e.g. with iconv -t UTF-8"
                )
            first = False
            *whole, rest = cut(rest + block, config.document_chars)
            yield from ((text.encode("utf-8", "surrogateescape"), 0) for text in whole)
        if rest:
            yield rest.encode("utf-8", "surrogateescape"), 0
        reader.detach()


def _share_invalid(text: str) -> float:
    return 0.0 if text.isascii() else sum("\udc80" <= c <= "\udcff" for c in text) / len(text)


def cut(text: str, most: int) -> list[str]:
    """Cut a text into documents of at most `most` characters.

    At a paragraph's end if the second half of the stretch has one, else a line's, a sentence's,
    a word's, else anywhere. What is shorter than `most` stays whole, and comes last.
    """
    documents, start = [], 0
    while len(text) - start > most:
        end = start + most
        for boundary in ("\n\n", "\n", ". ", "\u3002", " "):
            found = text.rfind(boundary, start + most // 2, end)
            if found >= 0:
                end = found + len(boundary)
                break
        documents.append(text[start:end])
        start = end
    return [*documents, text[start:]]


def _read_jsonl(source: Source, raw: BinaryIO, config: TextConfig) -> Iterator[tuple[bytes, int]]:
    with unpacked(source.path, raw) as stream:
        lines = iter(lambda: stream.readline(_MAX_ROW_BYTES + 1), b"")
        for number, line in enumerate(lines, start=1):
            if len(line) > _MAX_ROW_BYTES:
                raise DataError(
                    f"{source.path}, line {number}: expected at most {_MAX_ROW_BYTES >> 20} MiB, "
                    "found more; split it, or save it as .txt, which is cut into documents"
                )
            if line.strip():
                yield line, number


def _read_parquet(source: Source, raw: BinaryIO, config: TextConfig) -> Iterator[tuple[bytes, int]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{source.path}: needs pyarrow; pip install 'lmjax[parquet]'") from None
    try:
        file = pyarrow.parquet.ParquetFile(raw, pre_buffer=False)
        names = file.schema_arrow.names
        if config.field not in names:
            raise DataError(
                f"{source.path}: expected a column {config.field!r} (text.field), "
                f"found {', '.join(names)}"
            )
        row = 0
        for batch in file.iter_batches(batch_size=256, columns=[config.field]):
            for value in batch.column(0):
                row += 1
                text = value.as_py()
                if not isinstance(text, str | None):
                    raise DataError(
                        f"{source.path}, row {row}: expected text in {config.field!r}, "
                        f"found {type(text).__name__}"
                    )
                if text:
                    yield text.encode("utf-8", "surrogatepass"), row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source.path}: expected a Parquet file, {error}") from None


def _read_whole(source: Source, raw: BinaryIO, config: TextConfig) -> Iterator[tuple[bytes, int]]:
    yield raw.read(), 0


_READERS: dict[Format, Callable[[Source, BinaryIO, TextConfig], Iterator[tuple[bytes, int]]]] = {
    "txt": _read_txt,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "code": _read_whole,
    "prose": _read_whole,
}


def parse(format: Format, document: bytes, config: TextConfig) -> Iterator[tuple[str, bool]]:
    """The texts in a raw document, each with whether it was valid UTF-8.

    Raises DataError for a JSON line without the text field.
    """
    if format == "prose":
        for text in python_library.prose(document):
            yield from ((part, True) for part in cut(text, config.document_chars))
        return
    valid = True
    try:
        text = document.decode()
    except UnicodeDecodeError:
        text, valid = document.decode("utf-8", "replace"), False
    if format == "jsonl":
        text = _field(text.removeprefix("\ufeff"), config.field)
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            # JSON can spell half a character, which no UTF-8 can.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            valid = False
    yield text, valid


def _field(line: str, name: str) -> str:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected a JSON object, {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object, found {type(row).__name__}")
    if name not in row:
        raise DataError(f"expected a field {name!r} (text.field), found {', '.join(row) or 'none'}")
    if not isinstance(row[name], str):
        raise DataError(f"expected text in {name!r}, found {type(row[name]).__name__}")
    return row[name]
