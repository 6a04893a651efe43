"""The harness finds the same log-likelihoods for a run as for what it was exported to."""

import json
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from test_convert import OURS, new_run

from lmjax.convert import convert
from lmjax.text import corpus as corpora

lm_eval = pytest.importorskip("lm_eval")
import datasets  # noqa: E402
from lm_eval import evaluator  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

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
    numbers = OURS["Qwen3ForCausalLM"] | {"vocab_size": 576}  # 64 rows pad it
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


CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{context}}",
    "doc_to_choice": "endings",
    "doc_to_target": "{{right}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
PERPLEXITY = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{page}}",
    "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
}


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Two tasks on this Python's help pages, as YAML and JSON lines; nothing leaves the machine."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # asks pip, for seconds
    pages = [page.split()[10:] for _, page in sorted(topics.items()) if len(page) > 1000][:12]
    # The longer contexts are more than the model reads.
    pairs = [(words[: 2 + n], words[2 + n :][: 2 + n % 3]) for n, words in enumerate(pages)]
    endings = [" ".join(ending) for _, ending in pairs]
    choices = [
        {
            "context": " ".join(context),
            "endings": [endings[(n + 5 * (k - n % 4)) % 12] for k in range(4)],
            "right": n % 4,
        }
        for n, (context, _) in enumerate(pairs)
    ]
    rolling = [{"page": " ".join(words[: 4 + 30 * n])} for n, words in enumerate(pages[:6])]
    for name, task, documents in (("choice", CHOICE, choices), ("pages", PERPLEXITY, rolling)):
        lines = tmp_path / f"{name}.jsonl"
        lines.write_text("".join(json.dumps(document) + "\n" for document in documents))
        data = {"data_files": {"test": str(lines)}, "cache_dir": str(tmp_path / "cache")}
        settings = {"task": name, "dataset_path": "json", "dataset_kwargs": data} | task
        settings["test_split"] = "test"
        (tmp_path / f"{name}.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


@pytest.mark.filterwarnings("ignore")
def test_whole_tasks_have_the_same_results(backends, tasks):
    names = ["choice", "pages"]
    found, expected = (
        lm_eval.simple_evaluate(model, tasks=names, task_manager=tasks, bootstrap_iters=0)
        for model in backends()
    )
    for name, count in zip(names, (12, 6), strict=True):
        ours, theirs = found["samples"][name], expected["samples"][name]
        assert len(ours) == len(theirs) == count
        for one, two in zip(ours, theirs, strict=True):
            assert (one["doc_id"], one["arguments"]) == (two["doc_id"], two["arguments"])
            assert np.ravel(one["filtered_resps"]) == pytest.approx(
                np.ravel(two["filtered_resps"]), rel=0, abs=1e-3
            )
        assert [s.get("acc") for s in ours] == [s.get("acc") for s in theirs]
    (accuracies, perplexities), (their_accuracies, their_perplexities) = (
        [results["results"][name] for name in names] for results in (found, expected)
    )
    for name in ("acc,none", "acc_norm,none"):
        assert accuracies[name] == their_accuracies[name]
    for name in ("bits_per_byte,none", "word_perplexity,none"):
        assert perplexities[name] == pytest.approx(their_perplexities[name], rel=1e-3)
