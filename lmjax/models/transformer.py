"""The Transformer, decoder or encoder: (params, tokens) -> logits.

Shapes: B batch, T time, S cached time, D width, H query heads, N key heads, K head width,
F feed-forward width, V vocabulary, L layers.

With the default numbers it is the function that transformers' `NanoChatForCausalLM` computes; with
others it is GPT (Radford et al. 2018, 2019), Llama, Qwen3 or BERT: see `configs/`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from lmjax.config import ConfigError, TransformerConfig
from lmjax.models import attention, linear, sharding
from lmjax.models.model import CHUNK, Params, Readout, resolve_dtype, vocabulary
from lmjax.models.norm import Norm

_GATE_CHANNELS = 12

_GELU = functools.partial(nn.gelu, approximate=True)
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    # nn.relu would be a kernel of its own where layers are compiled apart.
    "relu2": lambda x: jnp.square(jnp.maximum(x, 0)),
    "gelu": _GELU,
    "gelu_erf": functools.partial(nn.gelu, approximate=False),
    "geglu": _GELU,
}


class Cache(NamedTuple):
    """Keys and values of all positions computed so far, for every layer, and their tokens.

    An array a layer: of one for all, each token would write everything anew. Keys lie as the
    product with queries reads them.
    """

    k_BNKS: tuple[jax.Array, ...]
    v_BNSK: tuple[jax.Array, ...]
    tokens_BS: jax.Array


class Context(NamedTuple):
    """What every layer sees beside the stream: places, the stream's start, who sees whom."""

    positions_BT: jax.Array
    start_BTD: jax.Array | None = None
    prefix_B: jax.Array | None = None
    length_B: jax.Array | None = None
    document_BT: jax.Array | None = None
    key: jax.Array | None = None


def _sinusoids(positions_BT: jax.Array, width: int) -> jax.Array:
    """Sines, then cosines, of Vaswani et al. 2017: float32 [B, T, D]."""
    half = (width + 1) // 2
    angles_BTD = positions_BT[..., None] * 10_000.0 ** (-jnp.arange(half) / half)
    return jnp.concatenate([jnp.sin(angles_BTD), jnp.cos(angles_BTD)], axis=-1)[..., :width]


def rotate(x_BTHK: jax.Array, positions_BT: jax.Array, base: float) -> jax.Array:
    """Rotary positions (Su et al. 2021), half-split, turning as nanochat does (clockwise)."""
    half = x_BTHK.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_BT1K = positions_BT[:, :, None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles_BT1K), jnp.sin(angles_BT1K)
    a, b = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos + b * sin, b * cos - a * sin], axis=-1).astype(x_BTHK.dtype)


class Block(nn.Module):
    """One layer: attention, then feed-forward, each added to the residual stream."""

    config: TransformerConfig
    dtype: jnp.dtype
    implementation: attention.Implementation

    @nn.compact
    def __call__(
        self,
        x_BTD: jax.Array,
        context: Context,
        window: int | None,
        value_BTNK: jax.Array | None = None,
        cache: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """`value_BTNK` is a value embedding; `cache` this layer's keys and values."""
        c = self.config
        if c.layer_scalars:
            stays, comes = (
                self.param(name, nn.initializers.constant(value), ())
                for name, value in (("stays", 1.0), ("comes", 0.1))
            )
            start_BTD = x_BTD if context.start_BTD is None else context.start_BTD
            x_BTD = (stays * x_BTD + comes * start_BTD).astype(self.dtype)
        norms = [_norm(c, self.dtype, name) for name in ("attention_norm", "mlp_norm")]
        if c.norm_position == "pre":
            h_BTD, cache = self._attention(norms[0](x_BTD), context, window, value_BTNK, cache)
            x_BTD += _drop(c.dropout, h_BTD, context.key, 0)
            x_BTD += _drop(c.dropout, self._feed_forward(norms[1](x_BTD)), context.key, 1)
        else:
            h_BTD, cache = self._attention(x_BTD, context, window, value_BTNK, cache)
            x_BTD = norms[0](x_BTD + _drop(c.dropout, h_BTD, context.key, 0))
            h_BTD = _drop(c.dropout, self._feed_forward(x_BTD), context.key, 1)
            x_BTD = norms[1](x_BTD + h_BTD)
        return x_BTD, cache

    def _linear(
        self, width: int, name: str, kept: str = "product", activation: str | None = None
    ) -> linear.Linear:
        init = _projection_init if name in ("o", "down") else _matrix_init
        return linear.Linear(
            width,
            use_bias=self.config.bias,
            dtype=self.dtype,
            kernel_init=init(self.config),
            kept=kept,
            activation=_ACTIVATIONS[activation] if activation else None,
            name=name,
        )

    def _attention(
        self,
        h_BTD: jax.Array,
        context: Context,
        window: int | None,
        value_BTNK: jax.Array | None,
        cache: tuple[jax.Array, jax.Array] | None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        c = self.config
        heads = (*h_BTD.shape[:2], -1, c.K)
        q_BTHK = self._linear(c.heads * c.K, "q", "qkv")(h_BTD).reshape(heads)
        k_BTNK = self._linear(c.KV * c.K, "k", "qkv")(h_BTD).reshape(heads)
        v_BTNK = self._linear(c.KV * c.K, "v", "qkv")(h_BTD).reshape(heads)
        if value_BTNK is not None:
            # Gates: karpathy/nanochat, of few channels, one for each key head.
            gate_CN = self.param("value_gate", nn.initializers.zeros, (_GATE_CHANNELS, c.KV))
            gate_BTN = h_BTD[..., :_GATE_CHANNELS] @ gate_CN.astype(self.dtype)
            v_BTNK += 2 * nn.sigmoid(gate_BTN)[..., None] * value_BTNK
        if c.qk_norm:
            q_BTHK, k_BTNK = (
                Norm(
                    centred=False,
                    epsilon=c.norm_epsilon,
                    use_scale=c.norm_gain,
                    use_bias=False,
                    dtype=self.dtype,
                    name=name,
                )(x)
                for name, x in (("q_norm", q_BTHK), ("k_norm", k_BTNK))
            )
        if c.position == "rope":
            q_BTHK = rotate(q_BTHK, context.positions_BT, c.rope_base)
            k_BTNK = rotate(k_BTNK, context.positions_BT, c.rope_base)
        scale = c.attention_scale if c.attention_scale is not None else 1 / math.sqrt(c.K)
        if cache is None:
            mixed_BTHK = attention.attend(
                q_BTHK,
                k_BTNK,
                v_BTNK,
                scale=scale,
                causal=c.causal,
                window=window,
                implementation=self.implementation,
                prefix_B=context.prefix_B,
                length_B=context.length_B,
                document_BT=context.document_BT,
            )
        else:
            rows_B1 = jnp.arange(h_BTD.shape[0])[:, None]
            cache = (
                cache[0].at[rows_B1, :, :, context.positions_BT].set(k_BTNK),
                cache[1].at[rows_B1, :, context.positions_BT].set(v_BTNK),
            )
            mixed_BTHK = attention.seen_by(
                q_BTHK,
                *cache,
                context.positions_BT,
                scale=scale,
                window=window,
                prefix_B=context.prefix_B,
            )
        return self._linear(c.width, "o")(mixed_BTHK.reshape(*h_BTD.shape[:2], -1)), cache

    def _feed_forward(self, h_BTD: jax.Array) -> jax.Array:
        c = self.config
        if c.activation in ("swiglu", "geglu"):
            up_BTF = self._linear(c.F, "up", "up")(h_BTD)
            if c.activation == "swiglu":  # computed again backward it would move more bytes
                up_BTF *= nn.silu(self._linear(c.F, "gate", "up")(h_BTD))
            else:
                up_BTF *= self._linear(c.F, "gate", "up", "geglu")(h_BTD)
        else:
            up_BTF = self._linear(c.F, "up", "up", c.activation)(h_BTD)
        return self._linear(c.width, "down")(up_BTF)


def _drop(rate: float, x_BTD: jax.Array, key: jax.Array | None, place: int) -> jax.Array:
    """Dropout (Srivastava et al. 2014); without a key nothing is dropped."""
    if key is None or rate == 0:
        return x_BTD
    mask_BTD = jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, x_BTD.shape)
    # jnp.where would be a kernel of its own where layers are compiled apart.
    return jax.lax.select(mask_BTD, x_BTD / (1 - rate), jnp.zeros_like(x_BTD))


def _norm(config: TransformerConfig, dtype: jnp.dtype, name: str | None = None) -> Norm:
    centred = config.norm == "layer"
    return Norm(
        centred=centred,
        epsilon=config.norm_epsilon,
        use_scale=config.norm_gain,
        use_bias=centred and config.norm_gain and config.bias,
        dtype=dtype,
        name=name,
    )


def _matrix_init(config: TransformerConfig) -> Callable[..., jax.Array]:
    if config.matrix_std is not None:
        return nn.initializers.normal(config.matrix_std)
    return nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def _projection_init(config: TransformerConfig) -> Callable[..., jax.Array]:
    if config.projection_init == "zero":
        return nn.initializers.zeros
    if config.projection_init == "same":
        return _matrix_init(config)
    shrink = 1 / math.sqrt(2 * config.depth)
    if config.matrix_std is not None:
        return nn.initializers.normal(config.matrix_std * shrink)
    return nn.initializers.variance_scaling(shrink**2, "fan_in", "normal")


def _kept(remat: str) -> Callable[..., bool]:
    """The policy of `jax.checkpoint` for a rung of `TransformerConfig.remat` below none.

    cuDNN's attention is known by the name of its primitive: its statistics carry no name of ours,
    and where they are not kept it runs twice.
    """
    if remat == "full":
        return jax.checkpoint_policies.nothing_saveable
    return jax.checkpoint_policies.save_from_both_policies(
        lambda primitive, *_, **__: "dot_product_attention" in str(primitive),
        jax.checkpoint_policies.save_only_these_names(*remat.split("+")),
    )


@dataclass(frozen=True)
class Transformer:
    """A decoder as pure functions of its parameters, a nested dict of float32 arrays."""

    config: TransformerConfig
    dtype: jnp.dtype
    attention: attention.Implementation
    logits_chunk: int = CHUNK["cpu"]
    apart: bool = False
    """Whether each layer is compiled as a function of its own: see `_run_block`."""

    @property
    def block(self) -> Block:
        return Block(self.config, self.dtype, self.attention)

    @property
    def path(self) -> str:
        return f"{self.attention} attention"

    @property
    def V(self) -> int:
        return vocabulary(self.config)

    def without_dropout(self) -> Self:
        return dataclasses.replace(self, config=dataclasses.replace(self.config, dropout=0.0))

    def flops_per_token(self, predicted: float = 1.0) -> float:
        """As `flops_per_token` counts them."""
        return flops_per_token(self.config, self.V, predicted)

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters; blocks are stacked on a leading axis L."""
        c = self.config
        embed, head, position, blocks, norms, types, transform, values = jax.random.split(key, 8)
        normal = jax.random.normal
        x_BTD = jnp.zeros((1, 2, c.width), self.dtype)
        context = Context(jnp.zeros((1, 2), jnp.int32))
        value_BTNK = jnp.zeros((1, 2, c.KV, c.K), self.dtype) if c.value_embeddings else None
        params: Params = {"embedding": normal(embed, (self.V, c.width)) * c.embedding_std}
        if c.position == "learned":
            params["positions"] = normal(position, (c.length, c.width)) * c.embedding_std
        if c.position == "sinusoidal":
            params["position_scale"] = jnp.asarray(1 / math.sqrt(c.width))
        if c.token_types:
            params["token_types"] = normal(types, (c.token_types, c.width)) * c.embedding_std
        if c.value_embeddings:
            shape_LVM = (c.depth // 2, self.V, c.KV * c.K)
            params["value_embedding"] = normal(values, shape_LVM) / math.sqrt(c.width)
        if c.smear:
            params["smear_gate"] = jnp.zeros((_GATE_CHANNELS,))
            params["smear"] = jnp.zeros(())
        if c.backout:
            params["backout"] = jnp.asarray(0.2)
        params["blocks"] = jax.vmap(
            lambda key: self.block.init(key, x_BTD, context, None, value_BTNK)["params"]
        )(jax.random.split(blocks, c.depth))
        names = ["embedding_norm"] * c.embedding_norm + ["final_norm"] * (c.norm_position == "pre")
        for name in names:
            variables = _norm(c, self.dtype).init(norms, x_BTD)
            if "params" in variables:
                params[name] = variables["params"]
        if c.head_transform:
            params["head_transform"] = self._head_transform.init(transform, x_BTD)["params"]
        if not c.tied:
            params["head"] = normal(head, (self.V, c.width)) * c.head_std
        if c.head_bias:
            params["head_bias"] = jnp.zeros((self.V,))
        return params

    def apply(
        self,
        params: Params,
        tokens_BT: jax.Array,
        *,
        prefix_B: jax.Array | None = None,
        length_B: jax.Array | None = None,
        document_BT: jax.Array | None = None,
        types_BT: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of the token after each position (of the position itself, where not causal).

        float32 [B, T, V]; T is at most `length`. Optional, a number a row: tokens of a prefix that
        sees itself whole (Raffel et al. 2020), and tokens that are not padding. Optional, a number
        a token: its document, of which alone it then knows (slow: see `attention.attend`); a new
        document has another number than the one before it.
        """
        x_BTD = self.hidden(
            params,
            tokens_BT,
            prefix_B=prefix_B,
            length_B=length_B,
            document_BT=document_BT,
            types_BT=types_BT,
        )
        return self.readout(params, x_BTD).logits()

    def hidden(
        self,
        params: Params,
        tokens_BT: jax.Array,
        *,
        key: jax.Array | None = None,
        prefix_B: jax.Array | None = None,
        length_B: jax.Array | None = None,
        document_BT: jax.Array | None = None,
        types_BT: jax.Array | None = None,
    ) -> jax.Array:
        """The residual stream after the last block, [B, T, D]; arguments as in `apply`.

        Dropout draws from `key`; without one nothing is dropped.
        """
        T = tokens_BT.shape[1]
        if T > self.config.length and self.config.position in ("learned", "sinusoidal"):
            raise ValueError(f"tokens_BT: expected rows of at most {self.config.length}, found {T}")
        positions_BT = jnp.arange(T)[None]
        before_BT = jnp.pad(tokens_BT[:, :-1], ((0, 0), (1, 0)))
        first_BT = positions_BT == 0
        if document_BT is not None:
            first_BT |= document_BT != jnp.pad(document_BT[:, :-1], ((0, 0), (1, 0)))
        x_BTD = self._embed(params, tokens_BT, before_BT, positions_BT, first_BT, types_BT)
        x_BTD = _drop(self.config.dropout, x_BTD, key, self.config.depth)
        context = Context(positions_BT, x_BTD, prefix_B, length_B, document_BT, key)
        return self._blocks(params, tokens_BT, x_BTD, context)

    def readout(self, params: Params, x_D: jax.Array) -> Readout:
        """The final norm and the head on states [..., D]."""
        c = self.config
        if c.norm_position == "pre":
            x_D = self._apply_norm(params, "final_norm", x_D)
        if c.head_transform:
            x_D = self._head_transform.apply({"params": params["head_transform"]}, x_D)  # type: ignore[assignment]
        weight_VD = params["head" if "head" in params else "embedding"].astype(self.dtype)
        return Readout(x_D, weight_VD, params.get("head_bias"), c.softcap, self.logits_chunk)

    def init_cache(self, batch: int, length: int) -> Cache:
        """An empty cache for `batch` rows of up to `length` tokens."""
        c = self.config
        if not c.causal:
            raise ConfigError("model.causal: expected a model that predicts the next token")
        B, S, N = batch, length, c.KV
        k_BNKS = tuple(jnp.zeros((B, N, c.K, S), self.dtype) for _ in range(c.depth))
        v_BNSK = tuple(jnp.zeros((B, N, S, c.K), self.dtype) for _ in range(c.depth))
        return Cache(k_BNKS, v_BNSK, jnp.zeros((B, S), jnp.int32))

    def for_decoding(self, params: Params) -> Params:
        """A tree a layer, matrices in the compute dtype, a tied head as one of its own."""
        if isinstance(params["blocks"], tuple):
            return params
        matrices = jax.tree.map(
            lambda a: a.astype(self.dtype) if a.ndim > 2 else a, params["blocks"]
        )
        layers = tuple(
            jax.tree.map(lambda a, n=n: a[n], matrices) for n in range(self.config.depth)
        )
        head_VD = params["embedding" if self.config.tied else "head"].astype(self.dtype)
        params = {**params, "blocks": layers, "head": head_VD}
        if "value_embedding" in params:
            params["value_embedding"] = tuple(params["value_embedding"])
        return params

    def decode(
        self,
        params: Params,
        tokens_BT: jax.Array,
        start_B: jax.Array,
        cache: Cache,
        *,
        count_B: jax.Array | None = None,
        prefix_B: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Logits [B, T, V] of tokens at positions `start_B`, `start_B` + 1, ..., and their cache.

        What the cache holds before `start_B` is seen; positions past its end are dropped.
        """
        del count_B  # what padding leaves behind is written over before it is seen
        c = self.config
        params = self.for_decoding(params)
        positions_BT = start_B[:, None] + jnp.arange(tokens_BT.shape[1])
        rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]
        tokens_BS = cache.tokens_BS.at[rows_B1, positions_BT].set(tokens_BT)
        before_BT = tokens_BS[rows_B1, positions_BT - 1]
        x_BTD = self._embed(params, tokens_BT, before_BT, positions_BT, positions_BT == 0, None)
        context = Context(positions_BT, x_BTD, prefix_B)
        made, middle_BTD = [], x_BTD
        for n, own in enumerate(params["blocks"]):
            if n == c.depth // c.period // 2 * c.period:
                middle_BTD = x_BTD
            table_VM = params["value_embedding"][n // 2] if c.value_embeddings and n % 2 else None
            kv = cache.k_BNKS[n], cache.v_BNSK[n]
            x_BTD, kv = self._layer(n, own, table_VM, tokens_BT, x_BTD, context, kv)
            made.append(kv)
        if c.backout:
            x_BTD = (x_BTD - params["backout"] * middle_BTD).astype(self.dtype)
        k_BNKS, v_BNSK = zip(*made, strict=True)
        return self.readout(params, x_BTD).logits(), Cache(k_BNKS, v_BNSK, tokens_BS)

    def _embed(
        self,
        params: Params,
        tokens_BT: jax.Array,
        before_BT: jax.Array,
        positions_BT: jax.Array,
        first_BT: jax.Array,
        types_BT: jax.Array | None,
    ) -> jax.Array:
        """Tokens as the first block reads them; before the `first_BT` nothing stands."""
        # Gathered in float32 and cast after: the gradient then adds up in float32 as well.
        c = self.config
        embedding_VD = sharding.gathered(params["embedding"])
        x_BTD = embedding_VD[tokens_BT]
        if c.position == "learned":
            at_BTD = sharding.gathered(params["positions"])[positions_BT]
            x_BTD = linear.add(x_BTD, at_BTD[0]) if len(at_BTD) == 1 else x_BTD + at_BTD
        if c.position == "sinusoidal":
            x_BTD += params["position_scale"] * _sinusoids(positions_BT, c.width)
        if c.token_types:
            types_VD = params["token_types"]
            x_BTD = (
                linear.add(x_BTD, types_VD[0]) if types_BT is None else x_BTD + types_VD[types_BT]
            )
        if c.embedding_norm:
            x_BTD = self._apply_norm(params, "embedding_norm", x_BTD)
        if c.smear:
            # karpathy/nanochat: a gate on few channels decides how much of the token before comes.
            before_BTD = embedding_VD[before_BT]
            if c.embedding_norm:
                before_BTD = self._apply_norm(params, "embedding_norm", before_BTD)
            gate_BT = nn.sigmoid(x_BTD[..., :_GATE_CHANNELS] @ params["smear_gate"])
            share_BT = jnp.where(first_BT, 0, params["smear"] * gate_BT)
            x_BTD += share_BT[..., None] * before_BTD
        return x_BTD.astype(self.dtype)

    @property
    def _head_transform(self) -> nn.Sequential:
        c = self.config
        dense = linear.Linear(
            c.width,
            use_bias=c.bias,
            dtype=self.dtype,
            kernel_init=_matrix_init(c),
        )
        activate = functools.partial(nn.gelu, approximate=c.activation == "gelu")
        return nn.Sequential([dense, activate, _norm(c, self.dtype)])

    def _apply_norm(self, params: Params, name: str, x_BTD: jax.Array) -> jax.Array:
        """A norm outside the blocks, computed again backward: of 124M, 0.05 GiB less are kept."""
        variables = {"params": params[name]} if name in params else {}
        normed_BTD: jax.Array = jax.checkpoint(_norm(self.config, self.dtype).apply)(
            variables, x_BTD
        )
        return normed_BTD

    def _layer(
        self,
        n: int,
        own: Params,
        table_VM: jax.Array | None,
        tokens_BT: jax.Array,
        x_BTD: jax.Array,
        context: Context,
        cache: tuple[jax.Array, jax.Array] | None,
    ) -> tuple[jax.Array, Any]:
        """The `n`-th layer, of parameters `own` and, where it has one, a value embedding."""
        c = self.config
        window = c.window if c.window_pattern[n % len(c.window_pattern)] == "S" else None
        value_BTNK = None
        if table_VM is not None:
            value_BTM = sharding.gathered(table_VM)[tokens_BT].astype(self.dtype)
            value_BTNK = value_BTM.reshape(*tokens_BT.shape, c.KV, c.K)
        made: tuple[jax.Array, Any] = self.block.apply(
            {"params": own}, x_BTD, context, window, value_BTNK, cache
        )
        return made

    def _run_layer(
        self,
        n: int,
        own: Params,
        table_VM: jax.Array | None,
        tokens_BT: jax.Array,
        x_BTD: jax.Array,
        context: Context,
    ) -> jax.Array:
        """A layer to be trained.

        Where layers are merged, XLA for CPUs makes no array of the residual stream's gradient: each
        layer's kernels add up anew what all layers after it gave, an eighth of a step of six. It
        drops `optimization_barrier` before it merges, but keeps functions that say so.
        """

        def run(*arrays: Any) -> jax.Array:
            own, table_VM, tokens_BT, x_BTD, context = arrays
            with set_xla_metadata(inlineable=None):  # of the layer, not of each function in it
                return self._layer(n, own, table_VM, tokens_BT, x_BTD, context, None)[0]

        arrays = own, table_VM, tokens_BT, x_BTD, context
        if not self.apart:
            return run(*arrays)
        with set_xla_metadata(inlineable="false"):
            made: jax.Array = jax.jit(run)(*arrays)
        return made

    def _blocks(
        self, params: Params, tokens_BT: jax.Array, x_BTD: jax.Array, context: Context
    ) -> jax.Array:
        """Scan over the layers, one turn of their kinds at a time."""
        c = self.config
        turns = c.depth // c.period
        values = params.get("value_embedding")

        def layer(i: int, x_BTD: jax.Array, inputs: Any, context: Context) -> jax.Array:
            """The `i`-th of a turn. What it takes of its inputs it takes itself: were it given
            slices, a scan would keep a copy of each for the backward pass."""
            layers, tables, numbers_L = inputs
            own = jax.tree.map(lambda a: a[i], layers)
            table_VM = tables[i // 2] if tables is not None and i % 2 == 1 else None
            if context.key is not None:
                context = context._replace(key=jax.random.fold_in(context.key, numbers_L[i]))
            return self._run_layer(i, own, table_VM, tokens_BT, x_BTD, context)

        def turn(x_BTD: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
            for i in range(c.period):
                run: Callable[..., jax.Array] = functools.partial(layer, i)
                if c.remat not in ("none", "auto"):  # auto is chosen before training
                    run = jax.checkpoint(run, policy=_kept(c.remat))
                x_BTD = run(x_BTD, inputs, context)
            return x_BTD, None

        def fold(a: jax.Array) -> jax.Array:
            return a.reshape(turns, -1, *a.shape[1:])

        inputs = jax.tree.map(fold, (params["blocks"], values, jnp.arange(c.depth)))
        unroll = min(c.unroll or 24, turns)
        if not c.backout:
            return jax.lax.scan(turn, x_BTD, inputs, unroll=unroll)[0]
        first, second = (
            jax.tree.map(lambda a, half=half: a[half], inputs)
            for half in (slice(turns // 2), slice(turns // 2, None))
        )
        middle_BTD, _ = jax.lax.scan(turn, x_BTD, first, unroll=min(unroll, turns // 2))
        x_BTD, _ = jax.lax.scan(turn, middle_BTD, second, unroll=min(unroll, turns // 2))
        return (x_BTD - params["backout"] * middle_BTD).astype(self.dtype)


def flops_per_token(config: TransformerConfig, vocab_size: int, predicted: float = 1.0) -> float:
    """Floating-point operations a token costs to train on, forward and backward, at full length.

    As `Model.flops_per_token` has it: 6 for each weight of a matrix product, the head's for the
    positions `predicted` alone, and 12 x keys seen x head width for each query head of each layer.
    Keys seen are half a row on average where attention is causal, and what windows leave of them;
    PaLM and nanoGPT count a whole row.
    """
    c = config
    attend = 2 * c.heads * c.K * c.width + 2 * c.KV * c.K * c.width
    matrices = 3 if c.activation in ("swiglu", "geglu") else 2
    weights = c.depth * (attend + matrices * c.width * c.F)
    weights += c.depth // 2 * _GATE_CHANNELS * c.KV * c.value_embeddings
    weights += _GATE_CHANNELS * c.smear
    head = (vocab_size + c.width * c.head_transform) * c.width
    T = c.length
    seen = {"L": (T + 1) / 2 if c.causal else T}
    if c.window is not None:
        w = min(c.window, T)
        seen["S"] = (w * (w + 1) / 2 + (T - w) * w) / T * (1 if c.causal else 2) - (not c.causal)
    keys = sum(seen[kind] for kind in c.window_pattern) * (c.depth / len(c.window_pattern))
    return 6 * (weights + predicted * head) + 12 * keys * c.heads * c.K


def build(config: TransformerConfig, platform: str) -> Transformer:
    """The model on a platform (`cpu`, `gpu`): compute dtype and attention path resolved.

    Raises ConfigError for a combination that the platform cannot run.
    """
    dtype = resolve_dtype(config, platform)
    implementation = attention.choose(config, platform, dtype)
    return Transformer(config, dtype, implementation, CHUNK[platform], apart=platform == "cpu")
