"""GPT-1, Llama, Qwen3, BERT and the extras against float64 references; prefixes and padding."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

TOKENS_BT = np.random.default_rng(0).permuted(np.tile(np.arange(12), (3, 1)), axis=1)
TYPES_BT = np.random.default_rng(3).integers(0, 2, TOKENS_BT.shape)


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, tokens_BT, **some):
    return model.apply(params, tokens_BT, **some)


# ---- References: one row at a time, in float64, a loop over layers and heads


def attend(q_THK, k_TNK, v_TNK, seen_TT):
    heads = []
    for h in range(q_THK.shape[1]):
        n = h * k_TNK.shape[1] // q_THK.shape[1]
        scores = q_THK[:, h] @ k_TNK[:, n].T / math.sqrt(q_THK.shape[-1])
        scores = np.where(seen_TT, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v_TNK[:, n])
    return np.concatenate(heads, axis=-1)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x, weights, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return scaled * weights["scale"] + weights["bias"]


def rms_norm(x, gain=1.0, epsilon=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * gain


def post_norm(params, tokens_T, types_T, config):
    """GPT (Radford et al. 2018) and BERT (Devlin et al. 2019): norms after the sums."""
    p = jax.tree.map(np.float64, params)
    eps, bert = config.norm_epsilon, not config.causal
    activation = gelu_erf if bert else gelu
    T = len(tokens_T)
    seen_TT = np.ones((T, T), bool) if bert else np.tri(T, dtype=bool)
    x = p["embedding"][tokens_T] + p["positions"][:T]
    if bert:
        x = layer_norm(x + p["token_types"][types_T], p["embedding_norm"], eps)
    for i in range(config.depth):
        w = jax.tree.map(lambda a, i=i: a[i], p["blocks"])

        def dense(x, name, w=w):
            return x @ w[name]["kernel"] + w[name]["bias"]

        q, k, v = (dense(x, name).reshape(T, -1, config.K) for name in "qkv")
        x = layer_norm(x + dense(attend(q, k, v, seen_TT), "o"), w["attention_norm"], eps)
        x = layer_norm(x + dense(activation(dense(x, "up")), "down"), w["mlp_norm"], eps)
    if bert:
        transform = p["head_transform"]
        x = x @ transform["layers_0"]["kernel"] + transform["layers_0"]["bias"]
        x = layer_norm(activation(x), transform["layers_2"], eps)
    return x @ p["embedding"].T + p.get("head_bias", 0)


def llama(params, tokens_T, _, config):
    """Llama and Qwen3, turning as they do: queries and keys are those of the other direction once
    the latter half of each head has changed its sign."""

    def rotated(x_THK):
        half = config.K // 2
        x_THK = np.concatenate([x_THK[..., :half], -x_THK[..., half:]], -1)
        angles_TF = np.outer(np.arange(len(x_THK)), config.rope_base ** (-np.arange(half) / half))
        angles_T1K = np.concatenate([angles_TF, angles_TF], -1)[:, None]
        turned = np.concatenate([-x_THK[..., half:], x_THK[..., :half]], -1)
        return x_THK * np.cos(angles_T1K) + turned * np.sin(angles_T1K)

    p = jax.tree.map(np.float64, params)
    norm = functools.partial(rms_norm, epsilon=config.norm_epsilon)
    T, half = len(tokens_T), config.width // 2
    x = p["embedding"][tokens_T]
    if config.position == "sinusoidal":
        angles = np.outer(np.arange(T), 10000.0 ** (-np.arange(half) / half))
        x = x + p["position_scale"] * np.concatenate([np.sin(angles), np.cos(angles)], -1)
    place = rotated if config.position == "rope" else lambda x: x
    for i in range(config.depth):
        w = jax.tree.map(lambda a, i=i: a[i], p["blocks"])
        h = norm(x, w["attention_norm"]["scale"])
        q, k, v = ((h @ w[n]["kernel"]).reshape(T, -1, config.K) for n in "qkv")
        if config.qk_norm:
            q, k = norm(q, w["q_norm"]["scale"]), norm(k, w["k_norm"]["scale"])
        x = x + attend(place(q), place(k), v, np.tri(T, dtype=bool)) @ w["o"]["kernel"]
        h = norm(x, w["mlp_norm"]["scale"])
        gate = h @ w["gate"]["kernel"]
        gate = gelu(gate) if config.activation == "geglu" else gate * sigmoid(gate)
        x = x + (gate * (h @ w["up"]["kernel"])) @ w["down"]["kernel"]
    return norm(x, p["final_norm"]["scale"]) @ p["embedding" if config.tied else "head"].T


def speedrun(params, tokens_T, _, config):
    """The default decoder with karpathy/nanochat's extras."""

    def rotated(x_THK):
        half = config.K // 2
        angles = np.outer(np.arange(len(x_THK)), 10000.0 ** (-np.arange(half) / half))[:, None]
        a, b = x_THK[..., :half], x_THK[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([a * cos + b * sin, b * cos - a * sin], -1)

    p = jax.tree.map(np.float64, params)
    T, L = len(tokens_T), config.depth
    start = rms_norm(p["embedding"][tokens_T])
    share = p["smear"] * sigmoid(start[1:, :12] @ p["smear_gate"])
    start = np.concatenate([start[:1], start[1:] + share[:, None] * start[:-1]])
    x = start
    t, s = np.indices((T, T))
    for i in range(L):
        w = jax.tree.map(lambda a, i=i: a[i], p["blocks"])
        x = w["stays"] * x + w["comes"] * start
        h = rms_norm(x)
        q, k, v = ((h @ w[n]["kernel"]).reshape(T, -1, config.K) for n in "qkv")
        if i % 2 == 1:
            gate = 2 * sigmoid(h[:, :12] @ w["value_gate"])
            v = v + gate[..., None] * p["value_embedding"][i // 2][tokens_T].reshape(v.shape)
        window = config.window if i % 2 == 0 else T
        q, k = rms_norm(rotated(q)), rms_norm(rotated(k))
        x = x + attend(q, k, v, (s <= t) & (t - s < window)) @ w["o"]["kernel"]
        x = x + np.maximum(rms_norm(x) @ w["up"]["kernel"], 0) ** 2 @ w["down"]["kernel"]
        if i == L // 2 - 1:
            middle = x
    x = x - p["backout"] * middle
    return 15 * np.tanh(rms_norm(x) @ p["head"].T / 15)


@pytest.mark.parametrize(
    ("kind", "numbers", "reference"),
    [
        ("gpt1", {}, post_norm),
        ("bert", {}, post_norm),
        ("llama", {}, llama),
        ("llama", {"activation": "geglu", "position": "sinusoidal"}, llama),
        ("qwen3", {}, llama),
        ("speedrun", {}, speedrun),
    ],
)
def test_logits_are_those_of_the_reference(tiny, randomised, kind, numbers, reference):
    model = tiny(kind, **numbers)
    params = randomised(model)
    types = {"types_BT": TYPES_BT} if kind == "bert" else {}
    found_BTV = logits(model, params, TOKENS_BT, **types)
    rows = zip(TOKENS_BT, TYPES_BT, strict=True)
    expected_BTV = [reference(params, *row, model.config) for row in rows]
    np.testing.assert_allclose(found_BTV, expected_BTV, rtol=1e-4, atol=1e-4)


# ---- The extras


def pick(shapes, params):
    """The parameters that a model without some of them has."""
    if not isinstance(shapes, dict):
        return params
    return {name: pick(shape, params[name]) for name, shape in shapes.items()}


def test_each_extra_changes_the_function_and_unrolling_does_not(tiny, randomised):
    model = tiny("speedrun")
    params = randomised(model)
    whole = logits(model, params, TOKENS_BT)
    np.testing.assert_allclose(
        logits(tiny("speedrun", unroll=None), params, TOKENS_BT), whole, rtol=1e-5, atol=1e-5
    )
    for extra in ("value_embeddings", "layer_scalars", "smear", "backout"):
        without = tiny("speedrun", **{extra: False})
        shapes = jax.eval_shape(without.init, jax.random.key(0))
        assert len(jax.tree.leaves(shapes)) < len(jax.tree.leaves(params))
        found = logits(without, pick(shapes, params), TOKENS_BT)
        assert np.abs(found - whole).max() > 0.1, extra


def test_no_later_token_is_seen_through_the_extras(tiny, randomised):
    # Tokens enter by two tables: each row has one token changed, at the place of its number.
    model = tiny("speedrun")
    params = randomised(model)
    tokens_TT = np.tile(TOKENS_BT[0], (12, 1))
    np.fill_diagonal(tokens_TT, 23)
    changed_ST = np.abs(
        logits(model, params, tokens_TT) - logits(model, params, TOKENS_BT[:1])
    ).max(-1)
    s, t = np.indices(changed_ST.shape)
    np.testing.assert_allclose(changed_ST[t < s], 0, atol=1e-5)
    assert (changed_ST[t >= s] > 1e-4).all()


# ---- Who sees whom


def influence(model, params, **some):
    """Gradient norms [T, T] of a number made of the logits at t, by the position table's row s."""
    mix_V = jnp.asarray(np.random.default_rng(2).normal(size=model.V))

    def outputs(rows):
        return model.apply({**params, "positions": rows}, TOKENS_BT[:1], **some)[0] @ mix_V

    gradients_TSD = jax.jit(jax.jacrev(outputs))(params["positions"])
    return np.linalg.norm(np.asarray(gradients_TSD, np.float32), axis=-1)


def test_a_prefix_sees_itself_whole_and_the_rest_what_is_before(tiny, randomised):
    model = tiny("gpt2")
    seen_TS = influence(model, randomised(model), prefix_B=jnp.array([5])) > 0
    t, s = np.indices(seen_TS.shape)
    assert (seen_TS == ((s <= t) | (s < 5))).all()


def test_an_encoder_sees_both_sides_but_no_padding(tiny, randomised):
    model = tiny("bert")
    params = randomised(model)
    assert (influence(model, params) > 0).all()
    seen_TS = influence(model, params, length_B=jnp.array([9])) > 0
    assert (seen_TS[:9, :9]).all() and not seen_TS[:9, 9:].any()


DOCUMENTS_BT = jnp.array([[0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2]])


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_documents_know_nothing_of_each_other(tiny, randomised, kind):
    model = tiny(kind)
    seen_TS = influence(model, randomised(model), document_BT=DOCUMENTS_BT) > 0
    t, s = np.indices(seen_TS.shape)
    same_TS = DOCUMENTS_BT[0, t] == DOCUMENTS_BT[0, s]
    assert (seen_TS == (same_TS & ((s <= t) | (kind == "bert")))).all()


@pytest.mark.parametrize("kind", ["nanochat", "llama", "speedrun"])
def test_documents_of_a_row_are_computed_as_if_each_were_alone(tiny, randomised, kind):
    """Rotary positions tell distances alone, and windows and smear end at a document's start."""
    model = tiny(kind)
    params = randomised(model)
    found_TV = logits(model, params, TOKENS_BT[:1], document_BT=DOCUMENTS_BT)[0]
    for part in (slice(0, 5), slice(5, 7), slice(7, 12)):
        alone_TV = logits(model, params, TOKENS_BT[:1, part])[0]
        np.testing.assert_allclose(found_TV[part], alone_TV, rtol=1e-3, atol=1e-4)


def test_windows_of_an_encoder_reach_to_both_sides(tiny, randomised):
    model = tiny("bert", window=3, window_pattern="S", depth=1)
    seen_TS = influence(model, randomised(model)) > 0
    t, s = np.indices(seen_TS.shape)
    assert (seen_TS == (abs(t - s) < 3)).all()


def test_padding_changes_nothing_for_real_tokens(tiny, randomised):
    model = tiny("bert")
    params = randomised(model)
    length_B = jnp.array([12, 7, 3])
    found = logits(model, params, TOKENS_BT, types_BT=TYPES_BT, length_B=length_B)
    padded_BT = np.where(np.arange(12) < length_B[:, None], TOKENS_BT, 23)
    other = logits(model, params, padded_BT, types_BT=TYPES_BT, length_B=length_B)
    for row, n in enumerate(length_B.tolist()):
        np.testing.assert_allclose(found[row, :n], other[row, :n], rtol=1e-5, atol=1e-5)
        alone = post_norm(params, TOKENS_BT[row, :n], TYPES_BT[row, :n], model.config)
        np.testing.assert_allclose(found[row, :n], alone, rtol=1e-4, atol=1e-4)


def test_a_prefix_is_decoded_with_a_cache_as_without(tiny, randomised):
    model = tiny("llama")
    params = randomised(model)
    prefix_B = jnp.array([5, 1, 7])
    expected_BTV = logits(model, params, TOKENS_BT, prefix_B=prefix_B)
    decode = jax.jit(model.decode)
    # Prefixes of different lengths, padded to one; each goes on where it ends.
    padded_BT = np.where(np.arange(7) < prefix_B[:, None], TOKENS_BT[:, :7], 23)
    found_BTV, cache = decode(
        params, padded_BT, jnp.zeros(3, jnp.int32), model.init_cache(3, 12), prefix_B=prefix_B
    )
    for row, n in enumerate(prefix_B.tolist()):
        np.testing.assert_allclose(found_BTV[row, :n], expected_BTV[row, :n], rtol=1e-4, atol=1e-4)
    place_B = prefix_B
    for _ in range(3):
        tokens_B1 = np.take_along_axis(TOKENS_BT, np.asarray(place_B)[:, None], axis=1)
        found_B1V, cache = decode(params, tokens_B1, place_B, cache, prefix_B=prefix_B)
        np.testing.assert_allclose(
            found_B1V[:, 0], expected_BTV[np.arange(3), place_B], rtol=1e-4, atol=1e-4
        )
        place_B = place_B + 1


# ---- Dropout


def test_dropout_is_of_the_key_and_off_in_evaluation(tiny, randomised):
    model = tiny("bert", dropout=0.4)
    params = randomised(model)
    hidden = jax.jit(lambda key: model.hidden(params, TOKENS_BT, key=key))
    one, again, other = (hidden(jax.random.key(seed)) for seed in (0, 0, 1))
    assert (one == again).all() and np.abs(one - other).max() > 0.1
    quiet = model.without_dropout()
    given = jax.jit(lambda key: quiet.hidden(params, TOKENS_BT, key=key))(jax.random.key(0))
    plain = jax.jit(lambda: model.hidden(params, TOKENS_BT))()
    np.testing.assert_allclose(given, plain, rtol=1e-5, atol=1e-5)


# ---- Forty-eight layers

DEEP = {"depth": 48, "width": 64, "length": 16, "vocab_size": 64}


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [("nanochat", {}), ("nanochat", {"projection_init": "scaled"}), ("gpt2", {})],
)
def test_signals_and_gradients_keep_their_size_over_48_layers(tiny, kind, numbers):
    model = tiny(kind, **DEEP, **numbers)
    params = jax.jit(model.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    tokens_BT, targets_BT = rng.integers(0, 64, (2, 4, 16))

    @jax.jit
    def stream(layers):
        """The residual stream's rms after some layers: those beyond add nothing."""
        on_L11 = (jnp.arange(48) < layers)[:, None, None]
        blocks = dict(params["blocks"])
        for name in ("o", "down"):
            blocks[name] = {**blocks[name], "kernel": blocks[name]["kernel"] * on_L11}
        x_BTD = model.hidden({**params, "blocks": blocks}, tokens_BT)
        return jnp.sqrt(jnp.mean(x_BTD**2))

    def loss(params):
        chances = jax.nn.log_softmax(model.apply(params, tokens_BT))
        return -jnp.take_along_axis(chances, targets_BT[..., None], axis=-1).mean()

    sizes = [float(stream(layers)) for layers in (0, 1, 8, 24, 48)]
    # GPT-2's stream begins at 0.03 and grows by what its layers add; nothing else grows.
    assert max(sizes) < (1.8 if kind == "nanochat" else 0.3)
    assert min(sizes) > 0.5 * sizes[0]
    gradients = jax.jit(jax.grad(loss))(params)["blocks"]
    for name in ("o", "down"):
        rms_L = np.sqrt(np.square(gradients[name]["kernel"]).mean((1, 2)))
        assert rms_L.min() > 0 and rms_L.max() / rms_L.min() < 10, name
