"""Attention in several styles, and a layer of any sizes that replaces torch's own.

Shape letters: `N` samples, `L` positions, `C` channels of the stream, `H` heads, `K` heads of keys
and values, `D` and `V` dimensions of queries and of values in a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Attention written out.

    Args:
        stream: C.
        heads: H and K.
        widths: D and V.
        scale: how scores are scaled: `default`, `fixed`, `root`, `attribute` or `none`.
        cut: how channels are divided into heads.
        factor: the scale, if it is an attribute.
        normed: whether queries and keys are normalised.
    """

    def __init__(
        self,
        stream: int,
        heads: tuple[int, int],
        widths: tuple[int, int],
        scale: str,
        cut: str,
        factor: float | None,
        normed: bool,
    ) -> None:
        super().__init__()
        (self.heads, self.key_heads), (self.width, self.values) = heads, widths
        self.scale, self.cut = scale, cut
        self.factor = factor
        self.q = nn.Linear(stream, self.heads * self.width)
        self.k = nn.Linear(stream, self.key_heads * self.width, bias=False)
        self.v = nn.Linear(stream, self.key_heads * self.values)
        self.out = nn.Linear(self.heads * self.values, stream)
        self.q_norm = nn.LayerNorm(self.width) if normed else None
        self.k_norm = nn.RMSNorm(self.width) if normed else None

    def split(self, x: Tensor, heads: int, width: int) -> Tensor:
        """(N, L, H·D) -> (N, H, L, D)."""
        n, length, channels = x.shape
        if self.cut == "sizes":
            return x.view(n, length, heads, width).transpose(1, 2)
        if self.cut == "computed":
            return x.reshape(n, length, heads, channels // heads).permute(0, 2, 1, 3)
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        q = self.split(self.q(x), self.heads, self.width)
        k = self.split(self.k(x), self.key_heads, self.width)
        v = self.split(self.v(x), self.key_heads, self.values)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.key_heads < self.heads:
            k = k.repeat_interleave(self.heads // self.key_heads, dim=1)
            v = v.repeat_interleave(self.heads // self.key_heads, dim=1)
        if self.scale in ("default", "fixed"):
            scale = None if self.scale == "default" else 0.4
            y = F.scaled_dot_product_attention(q, k, v, scale=scale)
        else:
            scores = q @ k.transpose(-2, -1)
            if self.scale == "root":
                scores = scores / q.size(-1) ** 0.5
            elif self.factor is not None:
                scores = scores * self.factor
            y = scores.softmax(-1) @ v
        y = y.transpose(1, 2)
        return x + self.out(y.flatten(2))


class Fused(nn.Module):
    """Attention with one fused layer for queries, keys and values.

    Args:
        stream: C.
        heads: H.
        width: D, which is V.
    """

    def __init__(self, stream: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, width
        self.qkv = nn.Linear(stream, 3 * heads * width)
        self.proj = nn.Linear(heads * width, stream)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        n, length, _ = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.proj(y.transpose(1, 2).reshape(n, length, self.heads * v.shape[-1]))


class Torchs(nn.Module):
    """Torch's own layer, or for other widths a layer of any sizes."""

    def __init__(self, stream: int, heads: int, widths: tuple[int, int], whole: int) -> None:
        super().__init__()
        same = heads * widths[0] == heads * widths[1] == stream
        self.attention: nn.Module = (
            nn.MultiheadAttention(stream, heads, batch_first=True)
            if same and widths[0] == whole
            else FreeAttention(stream, heads, widths, whole**-0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        found: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return x + found


class FreeAttention(nn.Module):
    """The computation of `nn.MultiheadAttention`, with the same names and any widths."""

    def __init__(self, stream: int, heads: int, widths: tuple[int, int], scale: float) -> None:
        super().__init__()
        self.heads, self.widths, self.scale = heads, widths, scale
        rows = heads * (2 * widths[0] + widths[1])
        self.in_proj_weight = nn.Parameter(torch.randn(rows, stream))
        self.in_proj_bias = nn.Parameter(torch.randn(rows))
        self.out_proj = nn.Linear(heads * widths[1], stream)

    def forward(self, x: Tensor, *_: Tensor, need_weights: bool) -> tuple[Tensor, None]:
        """(N, L, C) -> (N, L, C)."""
        assert not need_weights
        wide, deep = (self.heads * width for width in self.widths)
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in projected.split([wide, wide, deep], dim=-1)
        )
        y = ((q @ k.mT) * self.scale).softmax(-1) @ v
        return self.out_proj(y.transpose(1, 2).flatten(2)), None


class SelfSized(nn.Module):
    """Attention that derives the width of a head from its stream.

    Args:
        stream: C, which is H·D.
        heads: H.
    """

    def __init__(self, stream: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(stream, 3 * stream), nn.Linear(stream, stream)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        y = ((q @ k.transpose(-2, -1)) * 0.3).softmax(dim=-1) @ v
        return x + self.proj(y.transpose(1, 2).reshape(b, n, c))


class Cross(nn.Module):
    """Grouped-query attention of one sequence to another.

    Args:
        streams: channels of both.
        heads: H and K.
        width: D, which is V.
    """

    def __init__(self, streams: tuple[int, int], heads: tuple[int, int], width: int) -> None:
        super().__init__()
        self.head_dim = width
        self.q_proj = nn.Linear(streams[0], heads[0] * width)
        self.k_proj = nn.Linear(streams[1], heads[1] * width)
        self.v_proj = nn.Linear(streams[1], heads[1] * width)
        self.o_proj = nn.Linear(heads[0] * width, streams[0])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, L, C) and (N, S, C') -> (N, L, C)."""
        shape = (*x.shape[:-1], -1, self.head_dim)
        other = (*y.shape[:-1], -1, self.head_dim)
        q = self.q_proj(x).view(shape).transpose(1, 2)
        k, v = (f(y).view(other).transpose(1, 2) for f in (self.k_proj, self.v_proj))
        found = F.scaled_dot_product_attention(q, k, v, scale=0.5, enable_gqa=True)
        return x + self.o_proj(found.transpose(1, 2).reshape(*x.shape[:-1], -1))
