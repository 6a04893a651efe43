"""Five architectures of the transformers library, told in lmjax's numbers and names.

For each: the settings both ways, and a table of names, ours to theirs. `{}` stands for the layer; a
`#0`, `#1` or `#2` after a name for a third of a fused tensor, cut along its last axis.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lmjax.config import ConfigError, TransformerConfig

Names = dict[str, str]


class Theirs:
    """Somebody's config.json, asked key by key; what it says must be of the right type."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def whole(self, key: str, default: int | None = None) -> int:
        return int(self._get(key, default, int))

    def real(self, key: str, default: float) -> float:
        return float(self._get(key, default, (int, float)))

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._get(key, default, bool))

    def optional(self, key: str) -> int | None:
        return None if self.values.get(key) is None else self.whole(key)

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse a setting that would compute something else; the first allowed is the default."""
        found = self.values.get(key, allowed[0])
        if found not in allowed:
            expected = " or ".join(map(repr, allowed))
            raise ConfigError(
                f"{self.where}: {key}: expected {expected}, found {found!r}; "
                "lmjax does not compute this, and importing without it would change the model"
            )

    def activation(self, known: dict[str, str], key: str, default: str) -> Any:
        """Our name of theirs."""
        self.only(key, default, *(name for name in known if name != default))
        return known[self.values.get(key, default)]

    def _get(self, key: str, default: Any, kind: Any) -> Any:
        found = self.values.get(key, default)
        if not isinstance(found, kind) or (kind is not bool and isinstance(found, bool)):
            raise ConfigError(f"{self.where}: {key}: expected a number, found {found!r}")
        return found


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture of transformers, and how it is told in ours."""

    architecture: str
    model_type: str
    read: Callable[[Theirs], TransformerConfig]
    write: Callable[[TransformerConfig], dict[str, Any]]
    names: Names
    transposed: bool = True
    """Their matrices are [out, in]; ours, and GPT-2's, are [in, out]."""
    turned: bool = False
    """Their rotary positions turn the other way: the halves of q and k change places."""
    prefix: str = ""
    """What the names of a bare model, saved without its head's class, lack."""
    dropped: tuple[str, ...] = ()
    """Ends of names of what is computed anew, tied, or not part of a language model."""


# ---- GPT-2: the matrices of q, k and v are one

_GELU = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_erf"}


def _their(activation: str, known: dict[str, str], default: str) -> str:
    """Their name of ours; the default where there is none, which then shows as a difference."""
    return next((theirs for theirs, ours in known.items() if ours == activation), default)


def _read_gpt2(t: Theirs) -> TransformerConfig:
    t.only("scale_attn_weights", True)
    t.only("scale_attn_by_inverse_layer_idx", False)
    t.only("add_cross_attention", False)
    return TransformerConfig(
        vocab_size=t.whole("vocab_size", 50257),
        length=t.whole("n_positions", 1024),
        depth=t.whole("n_layer", 12),
        width=t.whole("n_embd", 768),
        heads=t.whole("n_head", 12),
        ff_width=t.optional("n_inner"),
        activation=t.activation(_GELU, "activation_function", "gelu_new"),
        norm="layer",
        norm_gain=True,
        norm_epsilon=t.real("layer_norm_epsilon", 1e-5),
        embedding_norm=False,
        qk_norm=False,
        position="learned",
        bias=True,
        tied=t.flag("tie_word_embeddings", True),
        dropout=t.real("resid_pdrop", 0.1),
        softcap=None,
    )


def _write_gpt2(c: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "n_positions": c.length,
        "n_embd": c.width,
        "n_layer": c.depth,
        "n_head": c.heads,
        "n_inner": c.F,
        "activation_function": _their(c.activation, _GELU, "gelu_new"),
        "layer_norm_epsilon": c.norm_epsilon,
        "resid_pdrop": c.dropout,
        "embd_pdrop": c.dropout,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": c.tied,
    }


_GPT2_LAYER = "transformer.h.{}."
_GPT2 = {
    "embedding": "transformer.wte.weight",
    "positions": "transformer.wpe.weight",
    "blocks/attention_norm/scale": f"{_GPT2_LAYER}ln_1.weight",
    "blocks/attention_norm/bias": f"{_GPT2_LAYER}ln_1.bias",
    "blocks/q/kernel": f"{_GPT2_LAYER}attn.c_attn.weight#0",
    "blocks/k/kernel": f"{_GPT2_LAYER}attn.c_attn.weight#1",
    "blocks/v/kernel": f"{_GPT2_LAYER}attn.c_attn.weight#2",
    "blocks/q/bias": f"{_GPT2_LAYER}attn.c_attn.bias#0",
    "blocks/k/bias": f"{_GPT2_LAYER}attn.c_attn.bias#1",
    "blocks/v/bias": f"{_GPT2_LAYER}attn.c_attn.bias#2",
    "blocks/o/kernel": f"{_GPT2_LAYER}attn.c_proj.weight",
    "blocks/o/bias": f"{_GPT2_LAYER}attn.c_proj.bias",
    "blocks/mlp_norm/scale": f"{_GPT2_LAYER}ln_2.weight",
    "blocks/mlp_norm/bias": f"{_GPT2_LAYER}ln_2.bias",
    "blocks/up/kernel": f"{_GPT2_LAYER}mlp.c_fc.weight",
    "blocks/up/bias": f"{_GPT2_LAYER}mlp.c_fc.bias",
    "blocks/down/kernel": f"{_GPT2_LAYER}mlp.c_proj.weight",
    "blocks/down/bias": f"{_GPT2_LAYER}mlp.c_proj.bias",
    "final_norm/scale": "transformer.ln_f.weight",
    "final_norm/bias": "transformer.ln_f.bias",
    "head": "lm_head.weight",
}


# ---- Llama, Qwen3 and NanoChat: rotary positions, grouped keys

_GATED = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
_PLAIN = {"relu2": "relu2", **_GELU}


def _decoder(t: Theirs) -> dict[str, Any]:
    """What the three have in common."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = t.values.get(key) or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ConfigError(
                f"{t.where}: {key}: expected rotary positions as they are, found {kind!r}; "
                "lmjax does not rescale them, and importing without would change the model"
            )
    rope = t.values.get("rope_parameters") or {}
    where = Theirs({**t.values, **rope}, t.where)
    where.only("partial_rotary_factor", 1.0, None)
    if t.values.get("use_sliding_window") is not False:  # without it, a window is told but unused
        t.only("sliding_window", None)
    kinds = t.values.get("layer_types") or []
    if any(kind != "full_attention" for kind in kinds):
        raise ConfigError(
            f"{t.where}: layer_types: expected full_attention alone, found {sorted(set(kinds))}"
        )
    return {
        "vocab_size": t.whole("vocab_size"),
        "depth": t.whole("num_hidden_layers"),
        "width": t.whole("hidden_size"),
        "heads": t.whole("num_attention_heads"),
        "kv_heads": t.optional("num_key_value_heads"),
        "head_width": t.optional("head_dim"),
        "ff_width": t.whole("intermediate_size"),
        "length": t.whole("max_position_embeddings", 2048),
        "norm_epsilon": t.real("rms_norm_eps", 1e-6),
        "rope_base": where.real("rope_theta", 10_000.0),
        "tied": t.flag("tie_word_embeddings", False),
    }


def _write_decoder(c: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.length,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.KV,
        "head_dim": c.K,
        "intermediate_size": c.F,
        "rms_norm_eps": c.norm_epsilon,
        "rope_theta": c.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_base},
        "attention_dropout": 0.0,
        "attention_bias": c.bias,
        "tie_word_embeddings": c.tied,
    }


def _read_llama(t: Theirs) -> TransformerConfig:
    t.only("pretraining_tp", 1)
    bias = t.flag("attention_bias", False)
    Theirs({"mlp_bias": False, **t.values}, t.where).only("mlp_bias", bias)
    return TransformerConfig(
        **_decoder(t),
        activation=t.activation(_GATED, "hidden_act", "silu"),
        norm_gain=True,
        embedding_norm=False,
        qk_norm=False,
        bias=bias,
        softcap=None,
    )


def _write_llama(c: TransformerConfig) -> dict[str, Any]:
    activation = _their(c.activation, _GATED, "silu")
    return _write_decoder(c) | {"hidden_act": activation, "mlp_bias": c.bias}


def _read_qwen3(t: Theirs) -> TransformerConfig:
    t.only("attention_bias", False)
    t.only("use_sliding_window", False)
    return TransformerConfig(
        **_decoder(t) | {"head_width": t.whole("head_dim", 128)},
        activation=t.activation(_GATED, "hidden_act", "silu"),
        norm_gain=True,
        embedding_norm=False,
        softcap=None,
    )


def _write_qwen3(c: TransformerConfig) -> dict[str, Any]:
    activation = _their(c.activation, _GATED, "silu")
    fixed = {"attention_bias": False, "use_sliding_window": False}
    return _write_decoder(c) | fixed | {"hidden_act": activation}


def _read_nanochat(t: Theirs) -> TransformerConfig:
    t.only("attention_bias", False)
    cap = t.values.get("final_logit_softcapping", 15.0)
    return TransformerConfig(
        **_decoder(t),
        activation=t.activation(_PLAIN, "hidden_act", "relu2"),
        softcap=None if cap is None else t.real("final_logit_softcapping", 15.0),
    )


def _write_nanochat(c: TransformerConfig) -> dict[str, Any]:
    activation = _their(c.activation, _PLAIN, "relu2")
    fixed = {"attention_bias": False, "final_logit_softcapping": c.softcap}
    return _write_decoder(c) | fixed | {"hidden_act": activation}


_LLAMA_LAYER = "model.layers.{}."
_NANOCHAT = {
    "embedding": "model.embed_tokens.weight",
    "blocks/q/kernel": f"{_LLAMA_LAYER}self_attn.q_proj.weight",
    "blocks/k/kernel": f"{_LLAMA_LAYER}self_attn.k_proj.weight",
    "blocks/v/kernel": f"{_LLAMA_LAYER}self_attn.v_proj.weight",
    "blocks/o/kernel": f"{_LLAMA_LAYER}self_attn.o_proj.weight",
    "blocks/up/kernel": f"{_LLAMA_LAYER}mlp.fc1.weight",
    "blocks/down/kernel": f"{_LLAMA_LAYER}mlp.fc2.weight",
    "head": "lm_head.weight",
}
_LLAMA = _NANOCHAT | {
    "blocks/q/bias": f"{_LLAMA_LAYER}self_attn.q_proj.bias",
    "blocks/k/bias": f"{_LLAMA_LAYER}self_attn.k_proj.bias",
    "blocks/v/bias": f"{_LLAMA_LAYER}self_attn.v_proj.bias",
    "blocks/o/bias": f"{_LLAMA_LAYER}self_attn.o_proj.bias",
    "blocks/attention_norm/scale": f"{_LLAMA_LAYER}input_layernorm.weight",
    "blocks/mlp_norm/scale": f"{_LLAMA_LAYER}post_attention_layernorm.weight",
    "blocks/gate/kernel": f"{_LLAMA_LAYER}mlp.gate_proj.weight",
    "blocks/up/kernel": f"{_LLAMA_LAYER}mlp.up_proj.weight",
    "blocks/down/kernel": f"{_LLAMA_LAYER}mlp.down_proj.weight",
    "blocks/gate/bias": f"{_LLAMA_LAYER}mlp.gate_proj.bias",
    "blocks/up/bias": f"{_LLAMA_LAYER}mlp.up_proj.bias",
    "blocks/down/bias": f"{_LLAMA_LAYER}mlp.down_proj.bias",
    "final_norm/scale": "model.norm.weight",
}
_QWEN3 = _LLAMA | {
    "blocks/q_norm/scale": f"{_LLAMA_LAYER}self_attn.q_norm.weight",
    "blocks/k_norm/scale": f"{_LLAMA_LAYER}self_attn.k_norm.weight",
}


# ---- BERT: an encoder, with the head that fills masks or without


def _read_bert(t: Theirs) -> TransformerConfig:
    t.only("position_embedding_type", "absolute")
    t.only("is_decoder", False)
    t.only("add_cross_attention", False)
    return TransformerConfig(
        vocab_size=t.whole("vocab_size", 30522),
        length=t.whole("max_position_embeddings", 512),
        depth=t.whole("num_hidden_layers", 12),
        width=t.whole("hidden_size", 768),
        heads=t.whole("num_attention_heads", 12),
        ff_width=t.whole("intermediate_size", 3072),
        activation=t.activation(_GELU, "hidden_act", "gelu"),
        token_types=t.whole("type_vocab_size", 2),
        norm="layer",
        norm_position="post",
        norm_gain=True,
        norm_epsilon=t.real("layer_norm_eps", 1e-12),
        causal=False,
        qk_norm=False,
        position="learned",
        bias=True,
        tied=t.flag("tie_word_embeddings", True),
        head_transform=True,
        head_bias=True,
        dropout=t.real("hidden_dropout_prob", 0.1),
        softcap=None,
    )


def _read_bare_bert(t: Theirs) -> TransformerConfig:
    return dataclasses.replace(_read_bert(t), tied=True, head_transform=False, head_bias=False)


def _write_bert(c: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "max_position_embeddings": c.length,
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.F,
        "hidden_act": _their(c.activation, _GELU, "gelu"),
        "type_vocab_size": c.token_types,
        "layer_norm_eps": c.norm_epsilon,
        "hidden_dropout_prob": c.dropout,
        "attention_probs_dropout_prob": 0.0,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": c.tied,
    }


_BERT_LAYER = "bert.encoder.layer.{}."
_BARE_BERT = {
    "embedding": "bert.embeddings.word_embeddings.weight",
    "positions": "bert.embeddings.position_embeddings.weight",
    "token_types": "bert.embeddings.token_type_embeddings.weight",
    "embedding_norm/scale": "bert.embeddings.LayerNorm.weight",
    "embedding_norm/bias": "bert.embeddings.LayerNorm.bias",
    "blocks/q/kernel": f"{_BERT_LAYER}attention.self.query.weight",
    "blocks/q/bias": f"{_BERT_LAYER}attention.self.query.bias",
    "blocks/k/kernel": f"{_BERT_LAYER}attention.self.key.weight",
    "blocks/k/bias": f"{_BERT_LAYER}attention.self.key.bias",
    "blocks/v/kernel": f"{_BERT_LAYER}attention.self.value.weight",
    "blocks/v/bias": f"{_BERT_LAYER}attention.self.value.bias",
    "blocks/o/kernel": f"{_BERT_LAYER}attention.output.dense.weight",
    "blocks/o/bias": f"{_BERT_LAYER}attention.output.dense.bias",
    "blocks/attention_norm/scale": f"{_BERT_LAYER}attention.output.LayerNorm.weight",
    "blocks/attention_norm/bias": f"{_BERT_LAYER}attention.output.LayerNorm.bias",
    "blocks/up/kernel": f"{_BERT_LAYER}intermediate.dense.weight",
    "blocks/up/bias": f"{_BERT_LAYER}intermediate.dense.bias",
    "blocks/down/kernel": f"{_BERT_LAYER}output.dense.weight",
    "blocks/down/bias": f"{_BERT_LAYER}output.dense.bias",
    "blocks/mlp_norm/scale": f"{_BERT_LAYER}output.LayerNorm.weight",
    "blocks/mlp_norm/bias": f"{_BERT_LAYER}output.LayerNorm.bias",
}
_BERT = _BARE_BERT | {
    "head_transform/layers_0/kernel": "cls.predictions.transform.dense.weight",
    "head_transform/layers_0/bias": "cls.predictions.transform.dense.bias",
    "head_transform/layers_2/scale": "cls.predictions.transform.LayerNorm.weight",
    "head_transform/layers_2/bias": "cls.predictions.transform.LayerNorm.bias",
    "head_bias": "cls.predictions.bias",
    "head": "cls.predictions.decoder.weight",
}
_BARE_BERT = {ours: theirs.removeprefix("bert.") for ours, theirs in _BARE_BERT.items()}

_POOLER = ("pooler.dense.weight", "pooler.dense.bias")
_BERT_DROPPED = (
    *_POOLER,
    "embeddings.position_ids",
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
)

GPT2 = Family(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    read=_read_gpt2,
    write=_write_gpt2,
    names=_GPT2,
    transposed=False,
    prefix="transformer.",
    dropped=("attn.bias", "attn.masked_bias", "lm_head.weight"),
)
LLAMA = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    read=_read_llama,
    write=_write_llama,
    names=_LLAMA,
    turned=True,
    dropped=("rotary_emb.inv_freq", "lm_head.weight"),
)
QWEN3 = Family(
    architecture="Qwen3ForCausalLM",
    model_type="qwen3",
    read=_read_qwen3,
    write=_write_qwen3,
    names=_QWEN3,
    turned=True,
    dropped=("lm_head.weight",),
)
NANOCHAT = Family(
    architecture="NanoChatForCausalLM",
    model_type="nanochat",
    read=_read_nanochat,
    write=_write_nanochat,
    names=_NANOCHAT,
    dropped=("lm_head.weight",),
)
BERT = Family(
    architecture="BertForMaskedLM",
    model_type="bert",
    read=_read_bert,
    write=_write_bert,
    names=_BERT,
    dropped=_BERT_DROPPED,
)
BARE_BERT = Family(
    architecture="BertModel",
    model_type="bert",
    read=_read_bare_bert,
    write=_write_bert,
    names=_BARE_BERT,
    prefix="bert.",
    dropped=_BERT_DROPPED,
)
FAMILIES = (NANOCHAT, QWEN3, LLAMA, GPT2, BERT, BARE_BERT)


def named(values: dict[str, Any], where: str) -> Family:
    """The family that a config.json names. Raises ConfigError for one we do not know."""
    found = values.get("architectures")
    for family in FAMILIES:
        if found == [family.architecture]:
            return family
    known = ", ".join(family.architecture for family in FAMILIES)
    raise ConfigError(f"{where}: architectures: expected one of {known}, found {found}")


def expressing(config: TransformerConfig) -> Family:
    """The family that computes what a model of these numbers computes.

    Raises ConfigError that names what none of them can express.
    """
    ours = computed(config)
    misfits: list[tuple[list[tuple[str, Any, Any]], Family]] = []
    for family in FAMILIES:
        try:
            theirs = computed(family.read(Theirs(family.write(config), family.architecture)))
        except ConfigError:  # numbers that this family cannot even state
            continue
        wrong = [(name, value, ours[name]) for name, value in theirs.items() if value != ours[name]]
        if not wrong:
            return family
        misfits.append((wrong, family))
    wrong, nearest = min(misfits, key=lambda misfit: len(misfit[0]))
    rows = "\n".join(
        f"  model.{name}: expected {value!r}, found {found!r}" for name, value, found in wrong
    )
    raise ConfigError(
        f"no architecture of transformers that we write computes this model; the nearest is "
        f"{nearest.architecture}, but for:\n{rows}"
    )


_ONLY_TRAINED = ("dropout", "embedding_std", "head_std", "matrix_std", "projection_init")
_ONLY_RUN = ("dtype", "attention", "unroll", "remat")


def computed(config: TransformerConfig) -> dict[str, Any]:
    """The numbers that decide what is computed, each in one spelling."""
    c = config
    values = dataclasses.asdict(c) | {"kv_heads": c.KV, "head_width": c.K, "ff_width": c.F}
    if c.attention_scale is not None and abs(c.attention_scale * c.K**0.5 - 1) < 1e-7:
        values["attention_scale"] = None
    if "S" not in c.window_pattern:
        values |= {"window": None, "window_pattern": "L"}
    if c.position != "rope":
        values["rope_base"] = None
    return {k: v for k, v in values.items() if k not in (*_ONLY_TRAINED, *_ONLY_RUN)}
