"""Mixtures of experts, in models of `transformers` and written by hand.

python -m benchmarks.zoo.experts    # the prunable share of the parameters of each
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoo.entries import Entry, noise
from benchmarks.zoo.hub import words
from benchmarks.zoo.shares import print_shares
from benchmarks.zoo.vision import declare_operators


class ListOfExperts(nn.Module):
    """Experts in a list, each called with the rows that its router gives it."""

    def __init__(self, width: int = 16, hidden: int = 24, experts: int = 4, top: int = 2) -> None:
        super().__init__()
        self.router, self.top = nn.Linear(width, experts), top
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
            for _ in range(experts)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Rows (samples, width) to (samples, 5)."""
        weights, chosen = self.router(x).softmax(-1).topk(self.top)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            if len(rows):
                out.index_add_(0, rows, expert(x[rows]) * weights[rows, place, None])
        return self.head(out + x)


class DenseExperts(nn.Module):
    """Every expert processes every row, and a softmax mixes their outputs."""

    def __init__(self, width: int = 16, hidden: int = 24, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.inner = nn.Parameter(torch.randn(experts, width, hidden) / 4)
        self.bias = nn.Parameter(torch.randn(experts, hidden) / 4)
        self.outer = nn.Parameter(torch.randn(experts, hidden, width) / 4)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Rows (samples, width) to (samples, 5)."""
        hidden = F.gelu(torch.einsum("nc,ech->neh", x, self.inner) + self.bias)
        each = torch.einsum("neh,ehc->nec", hidden, self.outer)
        return self.head(torch.einsum("nec,ne->nc", each, self.router(x).softmax(-1)) + x)


class StackedExperts(nn.Module):
    """Weights (experts, in, out), indexed by the expert of each row, in a batched product."""

    def __init__(self, width: int = 16, hidden: int = 24, experts: int = 4, top: int = 2) -> None:
        super().__init__()
        self.router, self.top = nn.Linear(width, experts), top
        self.inner = nn.Parameter(torch.randn(experts, width, hidden) / 4)
        self.bias = nn.Parameter(torch.randn(experts, 1, hidden) / 4)
        self.outer = nn.Parameter(torch.randn(experts, hidden, width) / 4)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Rows (samples, width) to (samples, 5)."""
        weights, chosen = self.router(x).softmax(-1).topk(self.top)
        out = x
        for place in range(self.top):
            own = chosen[:, place]
            hidden = torch.baddbmm(self.bias[own], x.unsqueeze(1), self.inner[own])
            out = out + torch.bmm(F.gelu(hidden), self.outer[own])[:, 0] * weights[:, place, None]
        return self.head(out)


_TEXT = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 40,
    "use_cache": False, "pad_token_id": 0,
}  # fmt: skip
_FEW = {**_TEXT, "num_experts_per_tok": 2}
_QWEN = {
    **_FEW, "num_experts": 6, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 28,
}  # fmt: skip
_LATENT = {
    **_FEW, "n_routed_experts": 6, "n_shared_experts": 1, "moe_intermediate_size": 20,
    "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 12, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4, "v_head_dim": 8, "num_key_value_heads": 4,
}  # fmt: skip
_JAMBA = {
    **_FEW, "num_hidden_layers": 4, "num_experts": 4, "attn_layer_period": 2,
    "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 6,
    "mamba_dt_rank": 5, "use_mamba_kernels": False,
}  # fmt: skip

_HUB: list[tuple[str, str, dict[str, Any]]] = [
    ("Mixtral", "Mixtral", {**_FEW, "num_local_experts": 4}),
    ("Qwen2-MoE", "Qwen2Moe", _QWEN),
    ("Qwen3-MoE", "Qwen3Moe", {**_QWEN, "head_dim": 8}),
    ("GPT-OSS", "GptOss", {**_FEW, "num_local_experts": 4, "head_dim": 8}),
    ("DeepSeek-V2", "DeepseekV2", {**_LATENT, "n_group": 1, "topk_group": 1}),
    ("DeepSeek-V3", "DeepseekV3", {**_LATENT, "n_group": 2, "topk_group": 1}),
    ("Jamba", "Jamba", _JAMBA),
]
"""(name in the table, prefix of its classes, settings)"""

WAYS = ("eager", "batched_mm", "grouped_mm")
"""How `transformers` computes experts: one after another, by index, or sorted by expert."""


def _hub(name: str, settings: dict[str, Any], way: str) -> nn.Module:
    declare_operators()
    hub = importlib.import_module("transformers")
    config = getattr(hub, f"{name}Config")(**settings)
    made: nn.Module = getattr(hub, f"{name}ForCausalLM")._from_config(
        config, experts_implementation=way
    )
    return made


def entries() -> list[Entry]:
    """One entry for each handwritten model, and one for each way of `transformers` if installed."""
    rows: list[tuple[str, Callable[[], nn.Module]]] = [
        ("a list of experts", ListOfExperts),
        ("a dense mixture", DenseExperts),
        ("experts by number", StackedExperts),
    ]
    found = [Entry(name, "by hand", build, noise(12, 16)) for name, build in rows]
    if importlib.util.find_spec("transformers") is not None:
        for name, prefix, settings in _HUB:
            for way in WAYS:
                build = partial(_hub, prefix, settings, way)
                found.append(Entry(f"{name}, {way}", "transformers", build, words()))
    return found


if __name__ == "__main__":
    print_shares(entries())
