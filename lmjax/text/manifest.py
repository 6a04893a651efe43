"""The manifest of a corpus: what it holds, what it was made from, and the digests to prove it."""

import dataclasses
import json
import re
import typing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from lmjax.text import digests
from lmjax.text.errors import DataError

FORMAT = 1
FILE = "manifest.json"
SEAL = "manifest.sha256"
"""The manifest's own digest, as `sha256sum --check` reads it."""
_MAX_BYTES = 64 << 20

DType = Literal["uint16", "uint32"]


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of the corpus and its SHA-256."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}", self.name):
            raise DataError(f"name: expected a plain file name, found {self.name!r}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise DataError(f"sha256: expected 64 hexadecimal digits, found {self.sha256!r}")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The training or the validation side; `bytes` are those of its text in UTF-8."""

    documents: int
    tokens: int
    bytes: int
    shards: tuple[File, ...]


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """The tokenizer's file and what it was trained on: no bytes if it was given."""

    file: File
    vocab_size: int
    bos: int
    trained_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A corpus: raw tokens without a header, in the order of the shards, BOS before a document.

    A shard is a plain slice of the tokens, so a document may run on into the next.
    """

    format: int
    dtype: DType
    tokenizer: TokenizerFacts
    train: Split
    val: Split
    cleaning: dict[str, dict[str, int]]
    invalid_utf8: int
    inputs: dict[str, tuple[int, ...]]
    settings: dict[str, Any]
    versions: dict[str, str]

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise DataError(
                f"format: expected {FORMAT}, found {self.format}; made by another lmjax, "
                "prepare the corpus again"
            )
        if not 0 < self.tokenizer.vocab_size <= (1 << 16 if self.dtype == "uint16" else 1 << 32):
            raise DataError(
                f"tokenizer.vocab_size: expected what fits {self.dtype}, "
                f"found {self.tokenizer.vocab_size}"
            )
        if self.tokenizer.bos >= self.tokenizer.vocab_size:
            raise DataError(
                f"tokenizer.bos: expected an id below {self.tokenizer.vocab_size}, "
                f"found {self.tokenizer.bos}"
            )
        for name, split in (("train", self.train), ("val", self.val)):
            stored = sum(shard.size for shard in split.shards)
            if split.tokens * self.token_bytes != stored:
                raise DataError(
                    f"{name}.tokens: expected {stored // self.token_bytes} as in its shards, "
                    f"found {split.tokens}"
                )

    @property
    def token_bytes(self) -> int:
        """Bytes of a stored token."""
        return 2 if self.dtype == "uint16" else 4

    @property
    def files(self) -> tuple[File, ...]:
        """Every file of the corpus but the manifest itself."""
        return (self.tokenizer.file, *self.train.shards, *self.val.shards)


def to_json(manifest: Manifest) -> str:
    """The manifest as indented JSON."""
    return json.dumps(dataclasses.asdict(manifest), indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read and check a corpus folder's manifest, and that its files are there at their sizes.

    Raises DataError that names the field or the file.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise DataError(f"{path}: expected the manifest of a corpus, found none; prepare it first")
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path}: expected at most {_MAX_BYTES >> 20} MiB, found more")
    try:
        manifest: Manifest = _decode(Manifest, json.loads(path.read_bytes()), "")
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, {error}") from None
    for file in manifest.files:
        member = path.with_name(file.name)
        size = member.stat().st_size if member.is_file() else None
        if size != file.size:
            raise DataError(
                f"{member}: expected {file.size} bytes, found "
                f"{'no file' if size is None else size}; delete the folder and prepare it again"
            )
    return manifest


def seal(content: bytes) -> bytes:
    """What SEAL holds for a manifest of this content."""
    return f"{sha256(content).hexdigest()}  {FILE}\n".encode()


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare every file, and the manifest, with its digest. Raises DataError for the first that
    differs. Corpora of early versions have no SEAL: their manifest is taken as it is."""
    listed, told = Path(folder) / FILE, Path(folder) / SEAL
    true = seal(listed.read_bytes())
    if told.exists() and (sealed := told.read_bytes()[: len(true) + 1]) != true:
        raise DataError(
            f"{listed}: expected SHA-256 {sealed.decode(errors='replace').split(' ')[0]} by "
            f"{SEAL}, found {true.decode().split()[0]}; delete the folder and prepare it again"
        )
    expected = {Path(folder) / file.name: file.sha256 for file in manifest.files}
    digests.check(expected, "delete the folder and prepare it again")


def _decode(kind: Any, value: Any, key: str) -> Any:
    """Build `kind` from JSON, or raise DataError with the dotted key."""
    here = key or "manifest"
    origin, options = typing.get_origin(kind) or kind, typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            found = ", ".join(map(str, value)) if isinstance(value, dict) else repr(value)
            raise DataError(f"{here}: expected the fields {', '.join(hints)}, found {found[:200]}")
        prefix = f"{key}." if key else ""
        fields = {name: _decode(hints[name], value[name], prefix + name) for name in hints}
        try:
            return typing.cast(Any, kind)(**fields)
        except DataError as error:
            raise DataError(f"{prefix}{error}") from None
    if origin is dict and isinstance(value, dict):
        return {name: _decode(options[1], v, f"{here}.{name}") for name, v in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(options[0], v, f"{here}[{i}]") for i, v in enumerate(value))
    if origin is Literal and value in options:
        return value
    if kind is Any or (kind is str and isinstance(value, str)):
        return value
    # Only differences of lengths may be negative; no count reaches 2**63.
    low = -(2**63) if key.startswith("cleaning.") else 0
    if kind is int and type(value) is int and low <= value < 2**63:
        return value
    name = getattr(kind, "__name__", kind)
    raise DataError(f"{here}: expected {name}, found {repr(value)[:80]}")
