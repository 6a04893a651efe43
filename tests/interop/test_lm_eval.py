"""The harness finds the same log-likelihoods for a run as for what it was exported to."""

import pytest
import torch
from test_convert import OURS, new_run

from lmjax.convert import convert
from lmjax.text import corpus as corpora

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from lmjax.interop.lm_eval import RunLM  # noqa: E402

PAIRS = [
    ("The module defines", " a class"),
    ("The module defines ", "a function that returns None"),
    ("", "Return the number of items"),
    ("If the argument is given, " * 20, "it is used instead of the default."),
    ("x = 1\n", "y = 2\n"),
]


@pytest.fixture(scope="module")
def backends(tmp_path_factory, corpus):
    """The run in our eyes, and the exported folder in the harness's."""
    place = tmp_path_factory.mktemp("harness")
    numbers = OURS["Qwen3ForCausalLM"] | {"vocab_size": 512}
    run = new_run(place / "run", **numbers)
    (run / "tokenizer.model").write_bytes((corpus / corpora.MODEL).read_bytes())
    convert(run, place / "theirs")

    def both(**settings):
        theirs = HFLM(str(place / "theirs"), device="cpu", dtype="float32", **settings)
        return RunLM(run, batch_size=2, **settings), theirs

    return both


def ask(model, kind, arguments):
    requests = [Instance(kind, {}, given, n) for n, given in enumerate(arguments)]
    return getattr(model, kind)(requests, disable_tqdm=True)


@pytest.mark.filterwarnings("ignore")  # the harness's own
@pytest.mark.parametrize("add_bos_token", [None, False])
def test_log_likelihoods_are_the_same(backends, add_bos_token):
    ours, theirs = backends(add_bos_token=add_bos_token)
    found, expected = (ask(model, "loglikelihood", PAIRS) for model in (ours, theirs))
    assert [score for score, _ in found] == pytest.approx([s for s, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [bool(greedy) for _, greedy in expected]
    texts = [(context + rest,) for context, rest in PAIRS]
    found, expected = (ask(model, "loglikelihood_rolling", texts) for model in (ours, theirs))
    assert found == pytest.approx(expected, abs=1e-3)
    assert len({round(score, 2) for score in found}) == len(texts)


@pytest.mark.filterwarnings("ignore")
def test_texts_are_the_same(backends):
    """Token by token: bytes that are no character print otherwise in other tokenizers."""
    ours, theirs = backends()
    for context in ("The module defines", "x = 1\n"):
        ids = ours.tok_encode(context)
        assert ids == theirs.tok_encode(context)
        start = torch.tensor([ids])
        made = theirs.model.generate(start, do_sample=False, max_new_tokens=12)
        expected = ours._tokens.decode(made[0, len(ids) :].tolist())
        settings = {"max_gen_toks": 12, "do_sample": False}
        whole, cut = ask(
            ours,
            "generate_until",
            [(context, settings | {"until": stops}) for stops in ([], [expected[3]])],
        )
        assert whole == expected
        assert cut == expected.split(expected[3])[0]
