"""Our tokenizer as transformers reads it: the same ids for the same text."""

import json
from pathlib import Path

import pytest
import tokenizers
import transformers

import lmjax
from lmjax.config import TokenizerConfig
from lmjax.interop import tokenizer_json
from lmjax.text import tokenizer
from lmjax.text.json_tokenizer import JsonTokenizer

# transformers takes the spelling of a special token in a text for the token itself; ours does not.
SOURCES = [path.read_text() for path in sorted(Path(lmjax.__file__).parent.glob("text/*.py"))]
SOURCES = [text for text in SOURCES if text and "<s>" not in text]
TEXTS = [*SOURCES, "Zoë\n\n  two  blanks, 漢字 and 🙂\ttabs \r\n", " ", "", "x" * 300]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def model(request, tmp_path_factory):
    """A `.model` trained on this library's sources."""
    stretches = [part for text in SOURCES for part in tokenizer.stretches(text)]
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    config = TokenizerConfig(kind=request.param, vocab_size=600)
    path.write_bytes(tokenizer.train(stretches, config))
    return path


def unigram(made):
    return made["model"]["type"] == "Unigram"


def test_ids_and_texts_are_the_same(model):
    ours = tokenizer.load(model)
    made, _ = tokenizer_json.convert(model, None)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(made))
    scores = dict(enumerate(score for _, score in made["model"]["vocab"])) if unigram(made) else {}

    def same(found, expected):
        """The same ids; or, in a unigram model, another way of exactly the same likelihood."""
        totals = [sum(scores[id] for id in ids) for ids in (found, expected) if scores]
        return found == expected or (scores and totals[0] == pytest.approx(totals[1], abs=1e-6))

    for text in TEXTS:
        ids = ours.encode(text)
        assert same(theirs.encode(text).ids, [ours.bos, *ids])
        assert theirs.decode(ids) == text
    again = JsonTokenizer(json.dumps(made).encode())
    assert (again.bos, again.vocab_size) == (ours.bos, ours.vocab_size)
    assert again.byte_lengths == ours.byte_lengths
    assert again.word_starts == ours.word_starts
    assert all(map(same, again.encode_all(TEXTS), ours.encode_all(TEXTS)))
    assert "".join(again.stream(again.encode(TEXTS[-4]))) == TEXTS[-4]


def test_transformers_loads_it_with_its_special_tokens(model, tmp_path):
    ours = tokenizer.load(model)
    made, settings = tokenizer_json.convert(model, 600)
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("The end")["input_ids"] == [ours.bos, *ours.encode("The end")]
    assert (theirs.bos_token_id, theirs.mask_token_id) == (ours.bos, 600)
    assert theirs.decode(ours.encode(TEXTS[0])) == TEXTS[0]


def test_a_model_that_changes_texts_is_not_told_wrongly(tmp_path):
    import io

    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("".join(SOURCES).splitlines()),
        model_writer=made,
        vocab_size=400,
        byte_fallback=True,
        minloglevel=3,
    )
    (tmp_path / "tokenizer.model").write_bytes(made.getvalue())
    assert tokenizer_json.convert(tmp_path / "tokenizer.model", None) is None
