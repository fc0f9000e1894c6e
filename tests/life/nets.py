"""Networks for what comes after an edit, and edits that reach every group that can change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ramify


class Conv(nn.Module):
    """A stem, an inverted residual block with a depthwise layer, norms, and a head."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        inner = width + 2
        self.stem, self.n0 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.up, self.n1 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.dw = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.n2, self.down = nn.BatchNorm2d(inner), nn.Conv2d(inner, width, 1)
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n0(self.stem(x)))
        y = F.relu(self.n1(self.up(x)))
        x = x + self.down(F.relu(self.n2(self.dw(y))))
        return self.fc(x.mean((2, 3)))


class Encoder(nn.Module):
    """Attention by hand and an MLP; a table that no state_dict holds, sizes as attributes."""

    table: Tensor

    def __init__(self, width: int = 8, heads: int = 2, hidden: int = 12) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale, self.causal = self.head_dim**-0.5, True
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down, self.act = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.GELU()
        self.head = nn.Linear(width, 3)
        self.register_buffer("table", torch.rand(hidden), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        samples, tokens, _ = x.shape
        split = lambda y: y.view(samples, tokens, self.num_heads, -1).transpose(1, 2)  # noqa: E731
        y = self.norm1(x)
        q, k, v = split(self.q(y)), split(self.k(y)), split(self.v(y))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        x = x + self.down(self.act(self.up(self.norm2(x))) * self.table)
        return self.head(x.mean(1))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (Conv, (3, 8, 8)),
    "encoder": (Encoder, (4, 8)),
}


def edit(graph: ramify.ChannelGraph, **given: object) -> ramify.ChannelGraph:
    """One channel of every group becomes three where it can be, then one goes where it can."""
    shares = (0.5, 0.3, 0.2)
    splits = [ramify.Split(group.name, 1, shares) for group in graph.groups if group.can_split]
    graph = ramify.apply(graph, splits, **given) if splits else graph
    prunes = [
        ramify.Prune(group.name, 0) for group in graph.groups if group.can_prune and group.width > 1
    ]
    assert prunes
    return ramify.apply(graph, prunes, **given)


def edited(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """A network with used statistics after edits of every group, and a batch, in eval mode."""
    build, shape = NETS[name]
    model, x = build().to(dtype), torch.randn(4, *shape, dtype=dtype)
    model(x)
    edit(ramify.trace(model.eval(), x))
    return model, x
