"""Both directions for every family, against transformers itself."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
import torch
import transformers
from foreign import KINDS

import lmjax
from lmjax import config as configuration
from lmjax.config import Config, ConfigError, LSTMConfig, TransformerConfig
from lmjax.convert import convert
from lmjax.interop import agreement, arrays, families
from lmjax.learning.step import init_state
from lmjax.models.build import build
from lmjax.runtime import checkpoint
from lmjax.runtime.generation import generate
from lmjax.text import corpus as corpora
from lmjax.text.errors import DataError

CAUSAL = [kind for kind in KINDS if "bert" not in kind]


@pytest.fixture(scope="session")
def imported(made, tmp_path_factory):
    """`imported(kind)`: the run folder of a model of transformers."""
    done = {}

    def get(kind):
        if kind not in done:
            done[kind] = tmp_path_factory.mktemp("ours") / "run"
            convert(made(kind).folder, done[kind])
        return done[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_agree_in_both_directions(made, imported, tmp_path, tokens_BT, kind):
    theirs = made(kind)
    expected = theirs.outputs(tokens_BT)
    model, params, _ = lmjax.restore(imported(kind))
    found = jax.jit(model.hidden if theirs.headless else model.apply)(params, tokens_BT)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)

    convert(imported(kind), tmp_path / "back")
    again = getattr(transformers, KINDS[kind][0]).from_pretrained(tmp_path / "back")
    before, after = theirs.model.state_dict(), again.state_dict()
    pooler = {name for name in before if "pooler" in name}
    for name in before.keys() - pooler:  # nothing but axes and places changes on the way
        assert torch.equal(before[name], after[name]), name
    found = theirs._replace(model=again.eval()).outputs(tokens_BT)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", CAUSAL)
def test_greedy_texts_are_identical(made, imported, kind):
    prompt = [1, 17, 44, 5]
    model, params, _ = lmjax.restore(imported(kind))
    chunks = generate(model, params, [prompt], vocab_size=96, max_tokens=64, temperature=0)
    found = np.concatenate(list(chunks), axis=1)[0]
    expected = made(kind).model.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=64, eos_token_id=None
    )
    assert found.tolist() == expected[0, len(prompt) :].tolist()
    assert len(set(found.tolist())) > 3


def test_padding_of_an_encoder_is_not_seen(made, imported, tokens_BT):
    length_B = np.array([60, 23])
    mask_BT = torch.tensor(np.arange(60) < length_B[:, None]).long()
    expected = made("bert").outputs(tokens_BT, attention_mask=mask_BT)
    model, params, _ = lmjax.restore(imported("bert"))
    found = np.asarray(model.apply(params, tokens_BT, length_B=length_B))
    for row, length in enumerate(length_B):
        np.testing.assert_allclose(found[row, :length], expected[row, :length], rtol=0, atol=1e-4)


def test_sharded_weights_are_read(made, imported, tmp_path):
    made("llama").model.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    convert(tmp_path / "theirs", tmp_path / "run")
    one, other = (lmjax.restore(run)[1] for run in (imported("llama"), tmp_path / "run"))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))


def test_half_precision_is_read(made, tmp_path, tokens_BT):
    half = made("llama").model
    half = type(half).from_pretrained(made("llama").folder, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "run")
    model, params, _ = lmjax.restore(tmp_path / "run")
    expected = made("llama")._replace(model=half.float().eval()).outputs(tokens_BT)
    np.testing.assert_allclose(model.apply(params, tokens_BT), expected, rtol=0, atol=1e-4)


# ---- Export of what was trained here

OURS = {
    "NanoChatForCausalLM": {},
    "Qwen3ForCausalLM": {
        "activation": "swiglu",
        "norm_gain": True,
        "embedding_norm": False,
        "softcap": None,
        "kv_heads": 2,
        "tied": True,
    },
    "BertForMaskedLM": {
        "activation": "gelu_erf",
        "norm": "layer",
        "norm_position": "post",
        "norm_gain": True,
        "norm_epsilon": 1e-12,
        "causal": False,
        "qk_norm": False,
        "position": "learned",
        "token_types": 2,
        "bias": True,
        "tied": True,
        "head_transform": True,
        "head_bias": True,
        "softcap": None,
    },
}


def new_run(folder, **numbers):
    """A run folder with random parameters, as if it had been trained."""
    small = {"vocab_size": 64, "length": 32, "depth": 2, "width": 32, "heads": 4}
    model = build(TransformerConfig(**small | numbers), "cpu")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(configuration.to_json(Config(model=model.config)))
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda a: np.float32(rng.normal(0, 0.3, a.shape)), shapes)
    numbers = {"step": 7, "tokens": 7 * 32, "val_loss": 4.0}
    state = init_state(params, optax.identity())._replace(step=np.int32(7))
    checkpoint.save(folder / "checkpoints", state, numbers)
    return folder


@pytest.mark.parametrize("architecture", OURS)
def test_models_of_ours_are_recognised_and_written(tmp_path, capsys, architecture):
    run = new_run(tmp_path / "run", **OURS[architecture])
    convert(run, tmp_path / "theirs")
    settings = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert settings["architectures"] == [architecture]
    assert settings["vocab_size"] == 64
    convert(tmp_path / "theirs", tmp_path / "back")
    (_, before, _), (_, after, _) = (lmjax.restore(tmp_path / name) for name in ("run", "back"))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, after))
    assert "largest difference, read back by transformers" in capsys.readouterr().err


def test_rows_that_pad_the_vocabulary_are_left_out(tmp_path, corpus, tokens_BT):
    run = new_run(tmp_path / "run", **OURS["Qwen3ForCausalLM"] | {"vocab_size": 576})
    (run / "tokenizer.model").write_bytes((corpus / corpora.MODEL).read_bytes())
    convert(run, tmp_path / "theirs")
    settings = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert settings["vocab_size"] == 512
    convert(tmp_path / "theirs", tmp_path / "back")
    (model, params, _), (shorter, kept, _) = (
        lmjax.restore(tmp_path / name) for name in ("run", "back")
    )
    found_BTV, expected_BTV = (
        jax.jit(m.apply)(p, tokens_BT[:, :32]) for m, p in ((shorter, kept), (model, params))
    )
    assert found_BTV.shape[-1] == 512 and expected_BTV.shape[-1] == 576
    np.testing.assert_allclose(found_BTV, expected_BTV[..., :512], rtol=1e-5, atol=1e-5)


def test_without_transformers_our_own_importer_reads_it_back(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(agreement, "theirs", lambda *_: None)
    run = new_run(tmp_path / "run")
    convert(run, tmp_path / "theirs")
    assert "read back by lmjax's own importer (transformers is not" in capsys.readouterr().err
    convert(tmp_path / "theirs", tmp_path / "back")
    assert "nothing to compare with" in capsys.readouterr().err


def test_an_export_that_computes_something_else_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_turned", lambda family, ours, array, K: array)
    run = new_run(tmp_path / "run", **OURS["Qwen3ForCausalLM"])
    with pytest.raises(DataError, match=r"differ by at most 0.001, found "):
        convert(run, tmp_path / "theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "numbers",
    [
        {"value_embeddings": True},
        {"layer_scalars": True},
        {"smear": True},
        {"backout": True},
        {"window": 8, "window_pattern": "SL"},
        {"attention_scale": 0.3},
        {"position": "sinusoidal"},
    ],
    ids=lambda numbers: next(iter(numbers)),
)
def test_what_no_architecture_computes_is_named(tmp_path, numbers):
    run = new_run(tmp_path / "run", **numbers)
    name = next(iter(numbers))
    with pytest.raises(ConfigError, match=rf"(?m)^  model.{name}: expected "):
        convert(run, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_other_kinds_of_model_are_refused(tmp_path):
    (tmp_path / "run").mkdir()
    config = Config(model=LSTMConfig(vocab_size=64))
    (tmp_path / "run" / "config.json").write_text(configuration.to_json(config))
    with pytest.raises(ConfigError, match=r"model.kind: expected transformer, found lstm"):
        convert(tmp_path / "run", tmp_path / "theirs")


# ---- Refusals on import


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("llama", "rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}),
        ("llama", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("llama", "hidden_act", "relu"),
        ("llama", "attention_bias", True),
        ("llama", "sliding_window", 32),
        ("qwen3", "use_sliding_window", True),
        ("qwen3", "layer_types", ["sliding_attention"] * 3),
        ("gpt2", "activation_function", "relu"),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "n_layer", "3"),
        ("bert", "position_embedding_type", "relative_key"),
        ("bert", "is_decoder", True),
        ("nanochat", "attention_bias", True),
        ("nanochat", "architectures", ["MambaForCausalLM"]),
    ],
)
def test_settings_we_do_not_compute_are_named(made, tmp_path, kind, key, value):
    folder = tmp_path / "theirs"
    folder.mkdir()
    settings = json.loads((made(kind).folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, key: value}))
    (folder / "model.safetensors").symlink_to(made(kind).folder / "model.safetensors")
    key = "mlp_bias" if key == "attention_bias" and kind == "llama" else key
    with pytest.raises(ConfigError, match=rf"config.json: {key}: expected "):
        convert(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tensor_too_few_or_too_many_is_named(made, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    settings = json.loads((made("llama").folder / "config.json").read_text())
    (folder / "model.safetensors").symlink_to(made("llama").folder / "model.safetensors")
    for layers, message in ((4, "layers.3.*expected this tensor"), (2, "layers.2.*no such tensor")):
        (folder / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": layers}))
        with pytest.raises(ConfigError, match=message):
            convert(folder, tmp_path / "run")


def test_every_family_gives_back_its_own_settings():
    for family in families.FAMILIES:
        sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
        more = {"num_attention_heads": 4, "intermediate_size": 48, "architectures": "x"}
        config = family.read(families.Theirs({**sizes, **more}, "config.json"))
        assert families.expressing(config) is family
        trained = dataclasses.replace(config, dropout=0.3, dtype="bfloat16", unroll=2)
        assert families.expressing(trained) is family
