"""GPT-2's train step as a PyTorch user would write it today: the peer of lmjax's own.

`torch.compile`, fused AdamW, scaled_dot_product_attention, bfloat16 by autocast on a GPU and
float32 on a CPU, decay on matrices alone, gradients clipped to a norm. Needs the extra `[bench]`.

Shapes: B rows, T time, D width, H heads, K head width.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from lmjax.config import Config, TransformerConfig

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise SystemExit(f'{error}; the peer needs: pip install "lmjax[bench]"') from None


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.o = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        B, T, D = x_BTD.shape
        qkv = self.qkv(self.attention_norm(x_BTD)).split(D, dim=2)
        q, k, v = (a.view(B, T, self.heads, -1).transpose(1, 2) for a in qkv)
        mixed_BHTK = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.o(mixed_BHTK.transpose(1, 2).reshape(B, T, D))
        h = F.gelu(self.up(self.mlp_norm(x_BTD)), approximate="tanh")
        return x_BTD + self.down(h)


class GPT(nn.Module):
    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.positions = nn.Parameter(torch.zeros(config.length, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("o.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 * (2 * config.depth) ** (-0.5 * writes))
        self.head.weight = self.embedding.weight

    def forward(self, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        x_BTD = self.embedding(tokens_BT) + self.positions
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = self.head(self.norm(x_BTD))
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())


def stepper(config: Config, tokens_BS: np.ndarray, threads: int) -> Callable[[int], float]:
    """A function that takes so many steps on these tokens, waits for them and returns the loss."""
    model_config, optimizer = config.model, config.optimizer
    assert isinstance(model_config, TransformerConfig) and model_config.vocab_size is not None
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = GPT(model_config, model_config.vocab_size).to(device)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": optimizer.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        groups,
        lr=optimizer.learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        fused=True,
    )
    tokens = torch.from_numpy(tokens_BS.astype(np.int64)).to(device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    compiled = torch.compile(model)

    def take(steps: int) -> float:
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = compiled(inputs, targets)
            loss.backward()
            if optimizer.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), optimizer.clip_norm)
            adamw.step()
            adamw.zero_grad(set_to_none=True)
        return float(loss.detach())

    return take
