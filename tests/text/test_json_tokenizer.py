"""A `tokenizer.json` of either spelling, behind the interface of our own tokenizer."""

import itertools

import pytest

from lmjax.text.errors import DataError
from lmjax.text.json_tokenizer import JsonTokenizer

tokenizers = pytest.importorskip("tokenizers")

TEXT = "def word(x):\n    return 'naïve 漢字 🙂' + x  # of words, and of word lists\n"


@pytest.fixture(scope="module")
def byte_level():
    """As GPT-2's: pieces of bytes, blanks before words, one special token."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT] * 4, trainer)
    return made


@pytest.fixture(scope="module")
def word_piece():
    """As BERT's."""
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=90, special_tokens=names, show_progress=False
    )
    made.train_from_iterator([TEXT] * 4, trainer)
    return made


def ours(made):
    return JsonTokenizer(made.to_str().encode())


def test_bytes_are_counted_and_given_back(byte_level):
    found = ours(byte_level)
    ids = found.encode(TEXT)
    assert ids == byte_level.encode(TEXT).ids
    assert found.decode(ids) == "".join(found.stream(ids)) == TEXT
    assert sum(found.byte_lengths[id] for id in ids) == len(TEXT.encode())
    assert found.byte_lengths[found.bos] == 0
    assert found.vocab_size == byte_level.get_vocab_size() == 300
    assert found.encode_all([TEXT, "", "x"]) == [ids, [], found.encode("x")]


def test_names_of_special_tokens_in_a_text_are_text(byte_level):
    found = ours(byte_level)
    assert found.bos == 0
    assert found.bos not in found.encode("a <|endoftext|> b")
    assert found.decode(found.encode("a <|endoftext|> b")) == "a <|endoftext|> b"


def test_words_begin_where_a_blank_does(byte_level):
    found = ours(byte_level)
    starts = [found.word_starts[id] for id in found.encode("word words")]
    assert not starts[0] and starts[1:].count(True) == 1


def test_ideographs_in_bytes_are_words_and_their_bytes_go_on(byte_level):
    found, text = ours(byte_level), "x林木か naïve"
    starts = [found.word_starts[id] for id in found.encode(text)]
    ends = list(itertools.accumulate(found.byte_lengths[id] for id in found.encode(text)))
    places = [place for place, start in zip([0, *ends], starts, strict=False) if start]
    assert places == [len(text[:n].encode()) for n in (1, 2, 3, 4)]


IDEOGRAPHS = "漢", "\u3400", "\uf900", "\U00020000", "\U0002a700", "\U0002f800"
KANA = "か", "ッ", "ン", "\u31f0", "\uff66", "\uff76", "\uff9d"
BEGIN = "\u2581", "\u2581a", ".", "\n", "。", "\uff0c", "🙂", "漢a", *IDEOGRAPHS, *KANA
MARKS = "々", "ー", "\uff70", "\uff9e", "\u0301", "\u200d", "\ufe0f", "\u093f"
GO_ON = "a", "7", "é", "я", "국", "a漢", *MARKS
BYTES = {0x20: True, 0x41: False, 0x2E: True, 0x80: False, 0xBF: False, 0xC2: True, 0xC3: False}
BYTES |= {0xD0: False, 0xE2: True, 0xE3: True, 0xE9: True, 0xEA: False, 0xEF: True, 0xF0: True}


def test_a_piece_begins_a_word_or_goes_on_in_one_by_its_first_character():
    expected = {**dict.fromkeys(BEGIN, True), **dict.fromkeys(GO_ON, False)}
    expected |= {f"<0x{byte:02X}>": begins for byte, begins in BYTES.items()}
    ids = {piece: id for id, piece in enumerate(["<s>", *expected])}
    found = ours(tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<s>")))  # noqa: S106
    assert {piece: found.word_starts[ids[piece]] for piece in expected} == expected


def test_a_piece_from_within_a_character_goes_on():
    ids = {"<s>": 0, "¢åŃĹ": 1}  # the last byte of 漢, and 字
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<s>"))  # noqa: S106
    made.decoder = tokenizers.decoders.ByteLevel()
    assert ours(made).byte_lengths[1] == 4
    assert not ours(made).word_starts[1]


def test_pieces_of_words_are_joined(word_piece):
    found = ours(word_piece)
    ids = found.encode("Word lists")
    assert ids == word_piece.encode("Word lists", add_special_tokens=False).ids
    assert found.decode(ids) == " word lists"
    assert (found.bos, found.mask) == (2, 4)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]"])
def test_another_file_is_refused(content):
    with pytest.raises(DataError, match=r"^x.json: expected a tokenizer.json, "):
        JsonTokenizer(content, "x.json")


def test_a_file_without_a_beginning_is_refused():
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))  # noqa: S106
    with pytest.raises(DataError, match="expected a token that begins a text, one of "):
        ours(made)


def test_an_id_outside_is_refused(byte_level):
    with pytest.raises(DataError, match="expected 0 to 299, found 300"):
        ours(byte_level).decode([300])
