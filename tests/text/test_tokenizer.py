"""The tokenizer gives every text back to the byte, and trains the same bytes each time."""

import io

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from lmjax.config import ConfigError, TokenizerConfig
from lmjax.text import tokenizer
from lmjax.text.errors import DataError
from lmjax.text.tokenizer import Tokenizer, stretches

ENGLISH = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must be in want of a wife.\n\nHowever little known the feelings or views of such a man may "
    "be:\n    def view(man):\n        return feelings[man]\n"
)
CHINESE = "滿目江山四望幽\uff0c白雲高卷嶂烟收。\n日回禽影穿疏木\uff0c風遞猿聲入小樓。\n"
SAMPLE = [f"{ENGLISH}{number}\n{CHINESE}" for number in range(50)]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(request) -> Tokenizer:
    size = 480 if request.param == "bpe" else 318
    return Tokenizer(tokenizer.train(SAMPLE, TokenizerConfig(kind=request.param, vocab_size=size)))


# All planes, without surrogates, and what SentencePiece gives a meaning to.
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            [
                *(
                    "\n",
                    "\n\n    ",
                    "\t\t",
                    "   ",
                    "\r\n",
                    "\0",
                    "\u2581",
                    "\u2585",
                    "\u2047",
                    "\ufeff",
                ),
                *(
                    "<s>",
                    "<unk>",
                    "<0x41>",
                    "\u2581the",
                    "中文 mixed 山",
                    "😀",
                    "e\u0301",
                    "\U0010ffff",
                ),
                *(ENGLISH, CHINESE, "\U00020000" * 1100),
            ]
        ),
    ),
    max_size=12,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_every_text_comes_back(trained, text):
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert "".join(trained.stream(ids)) == text
    assert trained.bos not in ids
    assert sum(trained.byte_lengths[id] for id in ids) == len(text.encode())


def test_cutting_long_text_leaves_the_tokens_as_they_are(trained):
    text = "".join(SAMPLE)
    assert len(list(stretches(text))) > 10
    assert trained.encode(text) == trained._processor.encode(text)


@given(text=TEXTS)
def test_stretches_fit_the_trainer_and_join_to_the_text(text):
    parts = list(stretches(text))
    assert "".join(parts) == text
    assert all(0 < len(part.encode()) <= 4192 for part in parts)


def test_line_ends_and_indentation_are_learnt(trained):
    ids = trained.encode("be:\n    def view")
    assert not any(trained._processor.is_byte(id) for id in ids)


def test_rare_characters_leave_room_for_words():
    rare = [chr(0x4E00 + i) for i in range(3000)]
    model = tokenizer.train([*SAMPLE, "".join(rare)[:1000]], TokenizerConfig(vocab_size=400))
    assert Tokenizer(model).vocab_size == 400


def test_the_trainer_drops_no_sentence_for_its_own_marks():
    config = TokenizerConfig(vocab_size=400)
    for mark in "\u2581\u2585\0":
        marked = [f"{mark}{sentence}{mark}" for sentence in SAMPLE]
        assert tokenizer.train(marked, config) == tokenizer.train(SAMPLE, config)


def test_a_character_of_several_ids_streams_whole(trained):
    pieces = list(trained.stream(trained.encode("a\U0001f600b")))
    assert "".join(pieces) == "a\U0001f600b"
    assert "\ufffd" not in "".join(pieces)
    assert "\U0001f600" in pieces


def test_half_a_character_becomes_a_replacement(trained):
    ids = trained.encode("\U0001f600")[:-1]
    assert "\ufffd" in trained.decode(ids)
    assert "".join(trained.stream(ids)) == trained.decode(ids)


@pytest.mark.parametrize("id", [-1, 480, 10**9])
def test_ids_outside_the_vocabulary_are_refused(trained, id):
    with pytest.raises(DataError, match=rf"token id: expected 0 to \d+, found {id}"):
        trained.decode([id])


def test_lone_surrogates_are_refused(trained):
    with pytest.raises(DataError, match="lone surrogate"):
        trained.encode("a\ud800b")


def test_the_same_text_trains_the_same_bytes():
    config = TokenizerConfig(vocab_size=400)
    assert tokenizer.train(SAMPLE, config) == tokenizer.train(SAMPLE, config)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_too_many_pieces_are_refused_with_the_number_that_works(kind):
    with pytest.raises(ConfigError, match=r"at most (\d+) pieces, found 5000") as refusal:
        tokenizer.train(SAMPLE, TokenizerConfig(kind=kind, vocab_size=5000))
    most = int(str(refusal.value).split("at most ")[1].split()[0])
    model = tokenizer.train(SAMPLE, TokenizerConfig(kind=kind, vocab_size=most))
    assert Tokenizer(model).vocab_size == most
    with pytest.raises(ConfigError):
        tokenizer.train(SAMPLE, TokenizerConfig(kind=kind, vocab_size=most + 1))


def foreign(**options) -> bytes:
    """A model as others train them: dummy prefix, NFKC, spaces collapsed."""
    model = io.BytesIO()
    options = {"vocab_size": 400, "byte_fallback": True, "minloglevel": 3, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE), model_writer=model, model_type="bpe", **options
    )
    return model.getvalue()


def test_a_model_from_elsewhere_is_made_lossless(tmp_path):
    path = tmp_path / "other.model"
    path.write_bytes(foreign())
    text = " two  spaces\n\tand \u2460, \uff21 "
    assert tokenizer.load(path).decode(tokenizer.load(path).encode(text)) != text
    adopted = Tokenizer(tokenizer.adopt(path))
    assert adopted.decode(adopted.encode(text)) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no model", "expected a SentencePiece model, found something else"),
        (b"", "expected a model with a BOS id"),
        (foreign(byte_fallback=False), "expected a model trained with byte_fallback"),
        (foreign(bos_id=-1), "expected a model with a BOS id"),
    ],
    ids=["text", "empty", "no bytes", "no bos"],
)
def test_unfit_models_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "unfit.model"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"unfit.model: {message}"):
        tokenizer.load(path)


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent\.model: .* found no such file"):
        tokenizer.load(tmp_path / "absent.model")


def test_a_word_starts_at_a_blank_or_a_mark_and_never_within_letters(trained):
    assert len(trained.word_starts) == trained.vocab_size
    assert trained.word_starts[trained.bos]
    words = "Unreasonable misunderstandings (alas) befell unfortunate women."
    ids, lengths = trained.encode(words), trained.byte_lengths
    text, at, within = words.encode(), 0, 0
    for id in ids:
        before, first = text[at - 1 : at], text[at : at + 1]
        at += lengths[id]
        if before.isalpha() and first.isalpha():
            within += 1
            assert not trained.word_starts[id]
        elif not first.isalnum():
            assert trained.word_starts[id]
    assert at == len(text) and within > 10


def words(found: Tokenizer, text: str) -> list[str]:
    """The tokens of a text, joined into words."""
    joined, left = [b""], text.encode()
    for id in found.encode(text):
        length = found.byte_lengths[id]
        if found.word_starts[id]:
            joined.append(b"")
        joined[-1] += left[:length]
        left = left[length:]
    assert not left
    return [word.decode() for word in joined if word]


def test_every_ideograph_is_a_word_be_it_a_piece_or_bytes(trained):
    expected = "山|江|樓| |望|日|\uff0can|白| |高|收|。".split("|")
    text = "".join(expected)
    pieces = not any(map(trained._processor.is_byte, trained.encode(text)))
    assert pieces == (trained.vocab_size == 480)  # there is no room for them in the smaller
    assert words(trained, text) == expected


@pytest.mark.parametrize(
    "marked",
    [
        "見|よ|カ|ナ",
        "\U00020000|\U0002f800|豈|龠",
        "naïve| Zoë",
        "чай| 한국| हिन्दी",
        "a|\u201cb|\u201d|🙂|\xa0c",
    ],
)
def test_a_character_in_several_pieces_is_in_one_word(trained, marked):
    expected = marked.split("|")
    text = "".join(expected)
    assert any(map(trained._processor.is_byte, trained.encode(text)))
    assert words(trained, text) == expected
