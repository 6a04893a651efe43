"""The Transformer against independent float64 references, and the promises it makes."""

import functools
import math
import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.config import ConfigError, TransformerConfig
from lmjax.models.transformer import build

TOKENS_BT = np.random.default_rng(0).permuted(np.tile(np.arange(12), (3, 1)), axis=1)


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens_BT):
    return model.apply(params, tokens_BT)


@functools.partial(jax.jit, static_argnums=0)
def initial(model):
    return model.init(jax.random.key(0))


# ---- References: one row at a time, in float64, a loop over layers and heads


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attend(q_THK, k_TNK, v_TNK, window):
    """Heads in a row, each with the key head of its group."""
    T, H, K = q_THK.shape
    t, s = np.indices((T, T))
    heads = []
    for h in range(H):
        n = h * k_TNK.shape[1] // H
        scores = q_THK[:, h] @ k_TNK[:, n].T / math.sqrt(K)
        scores[(s > t) | (t - s >= window)] = -np.inf
        heads.append(softmax(scores) @ v_TNK[:, n])
    return np.concatenate(heads, axis=-1)


def nanochat(params, tokens_T, config):
    """transformers' NanoChatForCausalLM, as its documentation and code state it."""

    def norm(x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)

    def rotated(x_THK):
        half = x_THK.shape[-1] // 2
        angles_TF = np.outer(np.arange(len(x_THK)), 10000.0 ** (-np.arange(half) / half))
        angles_T1K = np.concatenate([angles_TF, angles_TF], -1)[:, None]
        turned = np.concatenate([x_THK[..., half:], -x_THK[..., :half]], -1)
        return x_THK * np.cos(angles_T1K) + turned * np.sin(angles_T1K)

    p = jax.tree.map(np.float64, params)
    x = norm(p["embedding"][tokens_T])
    for i in range(config.depth):
        w = {name: layer["kernel"][i] for name, layer in p["blocks"].items()}
        h = norm(x)
        q, k, v = ((h @ w[name]).reshape(len(h), -1, config.K) for name in "qkv")
        short = config.window_pattern[i % len(config.window_pattern)] == "S"
        window = config.window if short else len(h)
        x = x + attend(norm(rotated(q)), norm(rotated(k)), v, window) @ w["o"]
        x = x + np.maximum(norm(x) @ w["up"], 0) ** 2 @ w["down"]
    return 15 * np.tanh(norm(x) @ p["head"].T / 15)


def gpt2(params, tokens_T, config):
    """GPT-2 (Radford et al. 2019), with its tanh approximation of gelu."""

    def norm(x, gain, bias):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain + bias

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    p = jax.tree.map(np.float64, params)
    x = p["embedding"][tokens_T] + p["positions"][: len(tokens_T)]
    for i in range(config.depth):
        w = jax.tree.map(lambda a, i=i: a[i], p["blocks"])

        def dense(x, name, w=w):
            return x @ w[name]["kernel"] + w[name]["bias"]

        h = norm(x, w["attention_norm"]["scale"], w["attention_norm"]["bias"])
        q, k, v = (dense(h, name).reshape(len(h), -1, config.K) for name in "qkv")
        x = x + dense(attend(q, k, v, len(h)), "o")
        h = norm(x, w["mlp_norm"]["scale"], w["mlp_norm"]["bias"])
        x = x + dense(gelu(dense(h, "up")), "down")
    return norm(x, p["final_norm"]["scale"], p["final_norm"]["bias"]) @ p["embedding"].T


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("nanochat", {}),
        ("nanochat", {"kv_heads": 2}),
        ("nanochat", {"kv_heads": 1, "head_width": 6, "ff_width": 20}),
        ("nanochat", {"kv_heads": 2, "window": 4, "window_pattern": "SL"}),
        ("gpt2", {}),
    ],
)
def test_logits_are_those_of_the_reference(tiny, randomised, kind, numbers):
    model = tiny(kind, **numbers)
    params = randomised(model)
    reference = {"nanochat": nanochat, "gpt2": gpt2}[kind]
    expected_BTV = [reference(params, row, model.config) for row in TOKENS_BT]
    found_BTV = logits(model, params, TOKENS_BT)
    assert found_BTV.dtype == jnp.float32
    np.testing.assert_allclose(found_BTV, expected_BTV, rtol=1e-5, atol=1e-5)


# ---- What may be seen


def influence(model, params, table):
    """Gradient norms [T, T] of a number made of the logits at t, by row s of a table."""
    tokens_T = jnp.arange(model.config.length)  # token s stands at position s
    mix_V = jnp.asarray(np.random.default_rng(2).normal(size=model.V))

    def outputs(rows):
        return model.apply({**params, table: rows}, tokens_T[None])[0] @ mix_V

    gradients_TSD = jax.jit(jax.jacrev(outputs))(params[table])[:, : model.config.length]
    return np.linalg.norm(np.asarray(gradients_TSD, np.float32), axis=-1)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        ("nanochat", {"kv_heads": 2, "window": 3, "window_pattern": "SL"}),
        ("nanochat", {"kv_heads": 1}),
        ("gpt2", {}),
        ("gpt1", {}),
        ("llama", {}),
        ("qwen3", {"tied": False}),  # else the head's gradient would be the table's as well
        ("speedrun", {}),
    ],
)
def test_nothing_later_is_seen(tiny, randomised, kind, numbers):
    model = tiny(kind, **numbers)
    table = "positions" if model.config.position == "learned" else "embedding"
    seen_TS = influence(model, randomised(model), table)
    t, s = np.indices(seen_TS.shape)
    assert (seen_TS[s > t] == 0).all()
    assert (seen_TS[s <= t] > 0).all()


def test_short_layers_look_back_a_window_each(tiny, randomised):
    model = tiny(depth=2, window=3, window_pattern="S")
    seen_TS = influence(model, randomised(model), "embedding")
    t, s = np.indices(seen_TS.shape)
    reach = 2 * (3 - 1)  # a window of 3 is the position itself and two before it, in each layer
    assert ((seen_TS > 0) == ((s <= t) & (t - s <= reach))).all()


# ---- Stacking


def test_unrolling_changes_nothing(tiny, randomised):
    models = [tiny(depth=3, unroll=unroll) for unroll in (1, 2, None)]
    trees = [jax.eval_shape(model.init, jax.random.key(0)) for model in models]
    assert trees[0] == trees[1] == trees[2]
    params = randomised(models[0])
    one, two, every = (logits(model, params, TOKENS_BT) for model in models)
    np.testing.assert_allclose(two, one, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(every, one, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("unroll", "pattern", "turns"), [(1, "L", 1), (3, "L", 3), (None, "L", 4), (None, "SL", 2)]
)
def test_as_many_turns_are_unrolled_as_asked(tiny, unroll, pattern, turns):
    model = tiny(depth=4, window=4, window_pattern=pattern, unroll=unroll)
    params = jax.eval_shape(model.init, jax.random.key(0))
    program = jax.make_jaxpr(model.apply)(params, TOKENS_BT).jaxpr
    (scan,) = [equation for equation in program.eqns if equation.primitive.name == "scan"]
    assert scan.params["unroll"] == turns


# ---- The cache


@pytest.mark.parametrize(
    ("kind", "numbers", "counts"),
    [
        ("nanochat", {"kv_heads": 2, "window": 4, "window_pattern": "SL"}, (3, 1, 1)),
        ("gpt2", {}, (1, 1, 1, 1, 1)),
    ],
)
def test_decoding_with_a_cache_gives_the_logits_of_apply(tiny, randomised, kind, numbers, counts):
    model = tiny(kind, **numbers)
    params = randomised(model)
    expected_BTV = np.asarray(logits(model, params, TOKENS_BT))
    decode = jax.jit(model.decode)
    length_B = np.array([5, 2, 7], np.int32)
    padded_BT = np.where(np.arange(7) < length_B[:, None], TOKENS_BT[:, :7], 23)

    logits_BTV, cache = decode(params, padded_BT, np.zeros(3, np.int32), model.init_cache(3, 12))
    for row, length in enumerate(length_B):
        np.testing.assert_allclose(
            logits_BTV[row, :length], expected_BTV[row, :length], rtol=1e-5, atol=1e-5
        )
    for count in counts:  # each row goes on from its own place
        places_BT = length_B[:, None] + np.arange(count)
        tokens_BT = np.take_along_axis(TOKENS_BT, places_BT, axis=1)
        logits_BTV, cache = decode(params, tokens_BT, length_B, cache)
        np.testing.assert_allclose(
            logits_BTV,
            np.take_along_axis(expected_BTV, places_BT[:, :, None], axis=1),
            rtol=1e-5,
            atol=1e-5,
        )
        length_B += count


# ---- Precision


def test_bfloat16_keeps_parameters_and_logits_in_float32(tiny):
    model = tiny(dtype="bfloat16")
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert {a.dtype for a in model.init_cache(1, 8)[0]} == {jnp.dtype("bfloat16")}
    assert jax.eval_shape(model.apply, params, TOKENS_BT).dtype == jnp.float32


def test_bfloat16_and_float32_agree(tiny, randomised):
    params = randomised(tiny())
    exact, rounded = (logits(tiny(dtype=d), params, TOKENS_BT) for d in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_gradients_of_a_frequent_token_add_up_in_float32(tiny, randomised):
    # 20,000 rows of a table that are alike: hit once each, or one of them hit 20,000 times.
    hits = 20_000
    model = tiny(dtype="bfloat16", depth=1, vocab_size=hits)
    params = randomised(model) | {"head": jnp.ones((3, 16))}
    table = jnp.tile(params["embedding"][:1], (hits, 1))

    @jax.jit
    def gradient(tokens_BT):
        def total(table):
            return model.apply({**params, "embedding": table}, tokens_BT)[..., 0].sum()

        return jax.grad(total)(table)

    spread = np.float64(gradient(np.arange(hits)[:, None])).sum(0)
    heaped = gradient(np.full((hits, 1), 7))[7]
    np.testing.assert_allclose(heaped, spread, rtol=1e-3, atol=1e-3 * np.abs(spread).max())


# ---- Initialisation

LARGER = {"vocab_size": 512, "length": 256, "depth": 4, "width": 64}


@pytest.mark.parametrize(
    ("kind", "numbers", "expected"),
    [
        (
            "nanochat",
            {},
            {
                "embedding": 0.8,
                "head": 0.001,
                "q": 1 / 8,
                "k": 1 / 8,
                "v": 1 / 8,
                "up": 1 / 8,
                "o": 0,
                "down": 0,
            },
        ),
        (
            "nanochat",
            {"projection_init": "scaled", "embedding_std": 0.5, "head_std": 0.3, "head_width": 32},
            {
                "embedding": 0.5,
                "head": 0.3,
                "q": 1 / 8,
                "up": 1 / 8,
                "o": 1 / math.sqrt(128) / math.sqrt(8),
                "down": 1 / 16 / math.sqrt(8),
            },
        ),
        (
            "gpt2",
            {},
            {
                "embedding": 0.02,
                "positions": 0.02,
                "q": 0.02,
                "k": 0.02,
                "v": 0.02,
                "up": 0.02,
                "o": 0.02 / math.sqrt(8),
                "down": 0.02 / math.sqrt(8),
            },
        ),
        (  # all from N(0, 1), as the article has it
            "llama",
            {
                "embedding_std": 1.0,
                "head_std": 1.0,
                "matrix_std": 1.0,
                "projection_init": "same",
                "ff_width": 128,
            },
            dict.fromkeys(("embedding", "head", *"qkvo", "up", "gate", "down"), 1.0),
        ),
        (
            "speedrun",
            {},
            {"value_embedding": 1 / 8, "value_gate": 0, "smear": 0, "smear_gate": 0},
        ),
        ("bert", {}, {"token_types": 0.02, "positions": 0.02, "head_bias": 0}),
    ],
)
def test_initial_weights_have_the_deviations_of_the_config(tiny, kind, numbers, expected):
    model = tiny(kind, **LARGER, **numbers)
    params = initial(model)
    for name, deviation in expected.items():
        weights = params[name] if name in params else params["blocks"][name]
        weights = weights["kernel"] if isinstance(weights, dict) else weights
        few = weights.size < 1000  # a deviation of few draws is less certain
        assert np.std(weights) == pytest.approx(deviation, rel=0.3 if few else 0.03), name
        assert abs(np.mean(weights)) <= 4 * deviation / math.sqrt(weights.size), name


def test_layers_start_with_different_weights_and_neutral_norms(tiny):
    blocks = initial(tiny("gpt2", **LARGER))["blocks"]
    assert np.abs(blocks["q"]["kernel"][0] - blocks["q"]["kernel"][1]).max() > 0.01
    assert np.abs(blocks["q"]["kernel"] - blocks["k"]["kernel"]).max() > 0.01
    for name, leaves in blocks.items():
        assert (leaves["bias"] == 0).all()
        assert "scale" not in leaves or (leaves["scale"] == 1).all(), name


# ---- Refusals


def test_a_row_longer_than_the_learned_positions_is_refused(tiny):
    model = tiny("gpt2")
    with pytest.raises(ValueError, match="tokens_BT: expected rows of at most 12, found 13"):
        jax.eval_shape(model.apply, {}, np.zeros((1, 13), np.int32))


def test_a_model_without_a_vocabulary_is_refused():
    with pytest.raises(ConfigError, match=r"^model.vocab_size: "):
        jax.eval_shape(build(TransformerConfig(), "cpu").init, jax.random.key(0))


def test_dtype_auto_follows_the_platform():
    config = TransformerConfig(vocab_size=64)
    assert build(config, "cpu").dtype == jnp.float32
    assert build(config, "gpu").dtype == jnp.bfloat16


def test_no_kernel_of_a_cpu_reads_what_all_layers_gave():
    """Merged, XLA adds up the stream's gradient anew in every layer, from all those after it."""

    def most_inputs(depth):
        numbers = {"activation": "gelu", "norm": "layer", "norm_gain": True, "bias": True}
        config = TransformerConfig(
            vocab_size=64, width=32, heads=2, length=16, depth=depth, **numbers
        )
        model = build(config, "cpu")
        tokens_BT = jnp.zeros((2, 16), jnp.int32)
        loss = lambda params: model.apply(params, tokens_BT).sum()  # noqa: E731
        params = jax.eval_shape(model.init, jax.random.key(0))
        text = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
        return max(line.count("%") for line in re.findall(r"fusion\(([^)]*)\)", text))

    assert most_inputs(8) <= most_inputs(4)


@pytest.mark.parametrize("window", [None, 8])
def test_nothing_in_a_layer_is_compiled_apart_but_the_layer(window):
    """A function inside would be a kernel of its own: what is around it could not join it."""
    numbers = {"vocab_size": 64, "width": 32, "heads": 2, "length": 16, "depth": 4}
    pattern = "L" if window is None else "S"
    config = TransformerConfig(activation="gelu", window=window, window_pattern=pattern, **numbers)
    model = build(config, "cpu")
    tokens_BT = jnp.zeros((2, 16), jnp.int32)
    loss = lambda params: model.apply(params, tokens_BT).sum()  # noqa: E731
    params = jax.eval_shape(model.init, jax.random.key(0))
    text = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
    called = set(re.findall(r" call\(.*to_apply=%([a-z_]+?)_?\.?\d*,", text))
    assert "run" in called and called <= {"run", "while_computation"}
