"""Tokenizers of the `tokenizers` library, a `tokenizer.json`, behind the interface of ours."""

import json
import re
from collections.abc import Sequence
from typing import Any

from lmjax.config import ConfigError
from lmjax.text.errors import DataError
from lmjax.text.tokenizer import Tokenizer

# What begins a text, by name: the file itself does not say. The first that is there is taken.
_BEGINNINGS = ("<|begin_of_text|>", "<s>", "<bos>", "<|bos|>", "<|endoftext|>", "[CLS]")
_MASKS = ("[MASK]", "<mask>")
_MOST_IDS = 1 << 22  # a list is made of so many
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class JsonTokenizer(Tokenizer):
    """A `tokenizer.json`. Texts may lose what its normalisation takes; nothing else differs.

    Names of special tokens in a text are text. `mask` is the id of the token that hides others, or
    none.
    """

    def __init__(self, content: bytes, name: str = "tokenizer.json") -> None:
        """Raises DataError for a file that is not one, ConfigError without the library."""
        try:
            import tokenizers
        except ImportError:
            raise ConfigError(
                f'{name}: expected the package tokenizers, found none; pip install "lmjax[hf]"'
            ) from None
        try:
            self._json: Any = tokenizers.Tokenizer.from_buffer(content)
            values = json.loads(content)
        except Exception as error:  # the library raises no other
            raise DataError(f"{name}: expected a tokenizer.json, {error}") from None
        self._json.no_truncation()
        self._json.no_padding()
        self._json.encode_special_tokens = True
        pieces = {id: piece for piece, id in self._json.get_vocab().items()}
        self.vocab_size: int = max(pieces, default=-1) + 1
        if not 0 < self.vocab_size <= _MOST_IDS:
            raise DataError(
                f"{name}: expected ids below {_MOST_IDS}, found {self.vocab_size - 1} the largest"
            )
        self.mask = self._first(_MASKS)
        bos = self._first(_BEGINNINGS)
        if bos is None:
            raise DataError(
                f"{name}: expected a token that begins a text, one of {', '.join(_BEGINNINGS)}, "
                "found none"
            )
        self.bos: int = bos
        added = {token["id"]: token for token in values.get("added_tokens", ())}
        style = _style(values)
        self._bytes = [b""] * self.vocab_size
        for id, piece in pieces.items():
            if id not in added:
                self._bytes[id] = style(piece)
            elif not added[id]["special"]:
                self._bytes[id] = piece.encode()

    def _first(self, names: Sequence[str]) -> int | None:
        ids = (self._json.token_to_id(name) for name in names)
        return next((id for id in ids if id is not None), None)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without BOS. Raises DataError for lone surrogates."""
        try:
            encoded = self._json.encode_batch(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise DataError(f"expected text, found a lone surrogate: {error}") from None
        return [part.ids for part in encoded]

    def encode_as_told(self, text: str, special: bool) -> list[int]:
        """The ids of a text, with the special tokens that the file puts around one, or without."""
        ids: list[int] = self._json.encode(text, add_special_tokens=special).ids
        return ids


def _style(values: dict[str, Any]) -> Any:
    """How pieces are written, told by what the file decodes them with: `piece -> bytes`."""
    parts = json.dumps([values.get("decoder"), values.get("pre_tokenizer")])
    if '"ByteLevel"' in parts:
        return _from_byte_level
    if '"WordPiece"' in parts:
        return _from_word_piece
    return _from_blank


def _from_byte_level(piece: str) -> bytes:
    """GPT-2's spelling: a printable character for each byte."""
    return bytes(_BYTES[c] for c in piece) if all(c in _BYTES for c in piece) else piece.encode()


def _from_word_piece(piece: str) -> bytes:
    """BERT's spelling: what goes on in a word is marked, the blank before a word is not there."""
    return piece[2:].encode() if piece.startswith("##") else b" " + piece.encode()


def _from_blank(piece: str) -> bytes:
    """SentencePiece's spelling."""
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("\u2581", " ").encode()


def _byte_characters() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTES = _byte_characters()
