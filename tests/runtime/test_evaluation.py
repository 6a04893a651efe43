"""The whole split is read, each target once, whatever the batch."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lmjax.config import Config, ObjectiveConfig, TransformerConfig
from lmjax.data import corpus as corpora
from lmjax.data import packing
from lmjax.learning import objective
from lmjax.models import transformer
from lmjax.runtime.evaluation import make_evaluator, objective_and_bytes
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


def test_a_run_is_evaluated_without_z_loss_and_without_what_pads_its_vocabulary(parts, corpus):
    model, params, table, _ = parts
    opened = corpora.open_corpus(corpus)
    wide = transformer.build(dataclasses.replace(model.config, vocab_size=576), "cpu")
    grown = jax.tree.map(lambda a: a, params)
    for name in ("embedding", "head"):
        grown[name] = jnp.pad(params[name], ((0, 64), (0, 0)), constant_values=3.0)
    config = Config(model=wide.config, objective=ObjectiveConfig(z_loss=0.5))
    goal, bytes_V = objective_and_bytes(config, wide, opened)
    found = make_evaluator(wide, goal, table, bytes_V, 4)(grown, 4)
    expected = evaluate(parts, 4, max_rows=4)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(expected.bits_per_byte, rel=1e-6)


def test_no_bits_without_a_tokenizer(parts):
    model, params, table, _ = parts
    assert evaluate((model, params, table, None), 4, max_rows=4).bits_per_byte is None
