"""Small random models of other people's architectures, no number of them at its default."""

from typing import NamedTuple

import torch
import transformers

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

SIZES = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
GPT2 = {
    **{key: SIZES[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")},
    "n_embd": 48,
    "n_inner": 80,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
}
ROPE = {"rope_type": "default", "rope_theta": 500_000.0}

KINDS = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2 untied": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, "tie_word_embeddings": False}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "llama with biases": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            **GROUPED,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": ROPE,
            "rms_norm_eps": 1e-5,
        },
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 16}),
    "nanochat": ("NanoChatForCausalLM", "NanoChatConfig", GROUPED),
    "bert": ("BertForMaskedLM", "BertConfig", SIZES),
    "bert without a head": ("BertModel", "BertConfig", SIZES),
}


class Made(NamedTuple):
    """A model of transformers and where it is saved."""

    model: torch.nn.Module
    folder: object
    headless: bool

    def outputs(self, tokens_BT, **more):
        with torch.no_grad():
            found = self.model(torch.tensor(tokens_BT), **more)
        return (found.last_hidden_state if self.headless else found.logits).numpy()


def make(kind, folder, **settings):
    architecture, config, numbers = KINDS[kind]
    torch.manual_seed(0)
    numbers = {**numbers, **settings}
    model = getattr(transformers, architecture)(getattr(transformers, config)(**numbers)).eval()
    with torch.no_grad():  # gains are born as ones and biases as zeros, and would hide errors
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder)
    return Made(model, folder, architecture == "BertModel")
