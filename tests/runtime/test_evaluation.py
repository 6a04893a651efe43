"""The whole split is read, each target once, whatever the batch."""

import jax
import pytest

from lmjax.config import TransformerConfig
from lmjax.data import corpus as corpora
from lmjax.data import packing
from lmjax.learning import objective
from lmjax.models import transformer
from lmjax.runtime.evaluation import make_evaluator
from lmjax.text.corpus import read_manifest


@pytest.fixture(scope="module")
def parts(corpus):
    opened = corpora.open_corpus(corpus)
    config = TransformerConfig(vocab_size=512, length=32, depth=1, width=32, heads=2, head_std=0.1)
    model = transformer.build(config, "cpu")
    table = packing.pack(opened.validation, 32, opened.bos, "documents", cover=True)
    return model, model.init(jax.random.key(0)), table, opened.bytes_V


def evaluate(parts, rows, max_rows=None):
    model, params, table, bytes_V = parts
    return make_evaluator(model, objective.next_token, table, bytes_V, rows)(params, max_rows)


@pytest.fixture(scope="module")
def whole(parts):
    return evaluate(parts, 1)


@pytest.mark.parametrize("rows", [3, 32, 1000])
def test_the_batch_changes_nothing(parts, whole, rows):
    many = evaluate(parts, rows)
    assert (many.tokens, many.bytes) == (whole.tokens, whole.bytes)
    assert many.loss == pytest.approx(whole.loss, rel=1e-6)
    assert many.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=1e-6)
    assert many.perplexity == pytest.approx(whole.perplexity, rel=1e-5)


def test_every_token_but_the_first_of_a_document_is_a_target(whole, corpus):
    facts = read_manifest(corpus).val
    assert whole.tokens == facts.tokens - facts.documents
    assert whole.bytes == facts.bytes


def test_max_rows_reads_fewer(parts, whole):
    some = evaluate(parts, 4, max_rows=10)
    assert 0 < some.tokens <= 10 * 32
    assert some.loss == pytest.approx(whole.loss, rel=0.1)


def test_no_bits_without_a_tokenizer(parts):
    model, params, table, _ = parts
    assert evaluate((model, params, table, None), 4, max_rows=4).bits_per_byte is None
