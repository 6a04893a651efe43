"""Text to token ids and back with SentencePiece; no text is lost, whatever characters it holds."""

import codecs
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece

from lmjax.config import ConfigError, TokenizerConfig
from lmjax.text.errors import DataError

# The trainer drops longer sentences without a word. The encoder's time grows faster than a
# sentence's length, and its memory by some hundred bytes a character.
_MAX_SENTENCE_BYTES = 4192
_SOFT_CHARS, _HARD_CHARS = 700, _MAX_SENTENCE_BYTES // 4
# No piece crosses these places: pieces hold a space at their start only, and never mix a letter
# with the line end before it. So cutting there leaves the tokens as they are.
_SEAM = re.compile(r"(?<=\n)(?=[^\W\d_])|(?<=\S)(?= \w)")

# SentencePiece writes a space as this character, so it cannot tell the two apart.
_BLANK = "\u2581"
_BLANK_BYTES = _BLANK.encode()
# The trainer's own mark for unknown characters; sentences that hold it are dropped.
_RESERVED = "\u2585"

# Scripts without blanks, whose every character is a word: the ideographs that BERT sets apart
# (google-research/bert, tokenization.py, `_is_chinese_char`), and kana but for what lengthens them.
_WORDS = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf"
    "\U0002f800-\U0002fa1f\u3041-\u3096\u30a1-\u30fa\u31f0-\u31ff\uff66-\uff6f\uff71-\uff9d]"
)
# First bytes of characters that mostly begin a word: Latin and general marks, kana and ideographs,
# full-width marks, emoji. The others lead letters.
_LEADS = frozenset((0xC2, *range(0xE2, 0xEA), 0xEF, 0xF0))

# Protobuf merges what is appended: no character map, no dummy prefix, no removal of extra spaces.
_LOSSLESS = bytes([0x1A, 6, 0x12, 0, 0x18, 0, 0x20, 0])


class Tokenizer:
    """A SentencePiece model with byte fallback: every text has ids, and they give it back."""

    def __init__(self, model: bytes, name: str = "tokenizer") -> None:
        """Raises DataError if `model` is not one, or lacks a BOS id or the 256 byte pieces."""
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise DataError(
                f"{name}: expected a SentencePiece model, found something else"
            ) from None
        self.vocab_size: int = self._processor.vocab_size()
        self.bos: int = self._processor.bos_id()
        if self.bos < 0:
            raise DataError(f"{name}: expected a model with a BOS id, found none")
        self._bytes = [self._piece_bytes(id) for id in range(self.vocab_size)]
        byte_ids = [self._processor.piece_to_id(f"<0x{value:02X}>") for value in range(256)]
        if not all(map(self._processor.is_byte, byte_ids)):
            raise DataError(
                f"{name}: expected a model trained with byte_fallback, found one without: "
                "it cannot represent every text"
            )
        self._blank_ids = [byte_ids[value] for value in _BLANK_BYTES]

    def _piece_bytes(self, id: int) -> bytes:
        processor = self._processor
        if processor.is_control(id) or processor.is_unknown(id) or processor.is_unused(id):
            return b""
        piece: str = processor.id_to_piece(id)
        return bytes([int(piece[3:5], 16)]) if processor.is_byte(id) else _unescape(piece)

    @property
    def byte_lengths(self) -> list[int]:
        """UTF-8 bytes of each token; 0 for BOS."""
        return [len(piece) for piece in self._bytes]

    @property
    def word_starts(self) -> list[bool]:
        """Whether each token begins a word; BOS does."""
        return [_begins_word(piece) for piece in self._bytes]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without BOS. Raises DataError for lone surrogates."""
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; faster than one by one."""
        try:
            parts_of = [[part.encode() for part in _parts(text)] for text in texts]
        except UnicodeEncodeError as error:
            raise DataError(f"expected text, found a lone surrogate: {error}") from None
        encoded = iter(
            self._processor.encode([p for parts in parts_of for p in parts], num_threads=1)
        )
        ids_of = []
        for parts in parts_of:
            ids: list[int] = []
            for part, part_ids in zip(parts, encoded, strict=False):
                ids += self._blank_ids if part == _BLANK_BYTES else part_ids
            ids_of.append(ids)
        return ids_of

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no whole character become U+FFFD."""
        return b"".join(map(self._bytes_of, ids)).decode("utf-8", "replace")

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield text as ids come in; a character of several ids comes out whole."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for id in ids:
            if text := decoder.decode(self._bytes_of(id)):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def _bytes_of(self, id: int) -> bytes:
        if not 0 <= id < self.vocab_size:
            raise DataError(f"token id: expected 0 to {self.vocab_size - 1}, found {id}")
        return self._bytes[id]


def _begins_word(piece: bytes) -> bool:
    """Whether a piece begins a word: unless it starts with a letter, a digit or half a character.

    Ideographs and kana do; what modifies the character before does not. Of a character in several
    pieces, the first byte tells.
    """
    if not piece:
        return True
    if 0x80 <= piece[0] < 0xC0:  # within a character
        return False
    first = piece[:4].decode("utf-8", "ignore")[:1]
    if not first:
        return piece[0] in _LEADS
    category = unicodedata.category(first)
    return bool(_WORDS.match(first)) or not (category[0] in "LMN" or category == "Cf")


def _unescape(piece: str) -> bytes:
    return piece.replace(_BLANK, " ").encode()


def _parts(text: str) -> Iterator[str]:
    """Cut a text into stretches for the encoder; U+2581 stands alone."""
    if _BLANK not in text:
        yield from stretches(text)
        return
    for index, between in enumerate(text.split(_BLANK)):
        if index:
            yield _BLANK
        yield from stretches(between)


def stretches(text: str) -> Iterator[str]:
    """Cut a text where no piece crosses if such a place is near; each fits the trainer."""
    start = 0
    while len(text) - start > _HARD_CHARS:
        seam = _SEAM.search(text, start + _SOFT_CHARS, start + _HARD_CHARS)
        end = seam.start() if seam else start + _HARD_CHARS
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def load(path: str | Path) -> Tokenizer:
    """Read a `.model` file, or a `tokenizer.json`. Raises DataError if it is missing or unfit."""
    path = Path(path)
    of_json = path.suffix == ".json"
    if not path.is_file():
        kind = "tokenizer.json" if of_json else "SentencePiece model"
        raise DataError(f"{path}: expected a {kind}, found no such file")
    if of_json:
        from lmjax.text.json_tokenizer import JsonTokenizer

        return JsonTokenizer(path.read_bytes(), str(path))
    return Tokenizer(path.read_bytes(), str(path))


def adopt(path: str | Path) -> bytes:
    """A model trained elsewhere, its text normalisation switched off so that nothing is lost.

    A `tokenizer.json` stays as it is: its model was trained on what it makes of a text.
    """
    load(path)
    return Path(path).read_bytes() + (b"" if Path(path).suffix == ".json" else _LOSSLESS)


def train(sentences: Sequence[str], config: TokenizerConfig) -> bytes:
    """Train a model on stretches of text; the same input gives the same bytes.

    Raises ConfigError, naming the largest size that works, for more pieces than the text supports.
    """
    size = config.vocab_size
    while True:
        model, most = _train(sentences, config.kind, size)
        if model and size == config.vocab_size:
            return model
        if model:
            raise ConfigError(
                f"text.tokenizer.vocab_size: the text supports at most {size} pieces, found "
                f"{config.vocab_size}; give more text or ask for {size} or fewer"
            )
        # Fewer pieces leave room for fewer characters, which can lower the limit once more.
        size = most


def _train(sentences: Sequence[str], kind: str, size: int) -> tuple[bytes, int]:
    """The model and 0, or nothing and the trainer's idea of the largest size."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(_frequent_only(sentences, (size - 258) // 2)),
            model_writer=model,
            vocab_size=size,
            model_type=kind,
            byte_fallback=True,
            bos_id=0,
            unk_id=1,  # the trainer insists on one; byte fallback keeps it unreachable
            eos_id=-1,
            pad_id=-1,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=1.0,
            max_sentence_length=_MAX_SENTENCE_BYTES,
            num_threads=4,  # unigram's sums depend on it, so it must not follow the machine
            minloglevel=3,
        )
    except RuntimeError as error:
        most = re.search(r"set it to a value <= (\d+)", str(error))
        if most is None or int(most[1]) >= size:
            raise DataError(f"the tokenizer could not be trained: {error}") from None
        return b"", int(most[1])
    return model.getvalue(), 0


def _frequent_only(sentences: Iterable[str], most: int) -> list[str]:
    """Cut the sentences at rare characters, which are left to the byte pieces.

    Every character the trainer sees takes a piece, and Chinese has more than a vocabulary.
    """
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(sentence)
    for never in (_BLANK, _RESERVED, "\0"):
        counts.pop(never, None)
    total, seen = counts.total(), 0
    keep: set[str] = set()
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if len(keep) >= most or seen >= 0.9995 * total:
            break
        keep.add(character)
        seen += count
    rare = {ord(c): "\0" for c in (*counts, _BLANK, _RESERVED) if c not in keep}
    return [part for s in sentences for part in s.translate(rare).split("\0") if part]
