"""Blocks of well-known networks: ConvNeXt, Swin, rotary attention, encoder layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.fuzz_edits.attention import FreeAttention
from benchmarks.fuzz_edits.axes import Axis, Beside, Dim, Each, Fixed, Sizes, size
from benchmarks.fuzz_edits.layers import Conv
from benchmarks.fuzz_edits.program import (
    SEQUENCE,
    VECTOR,
    WIDEST,
    Program,
    Unfit,
    both_ways,
    mixes,
)
from benchmarks.fuzz_edits.steps import CONVS, SPATIAL, Named, kernel, linear, prefixed


class ConvNext(nn.Module):
    """A depthwise convolution, then an MLP over the channels, with a layer scale."""

    def __init__(self, channels: int, hidden: int, spatial: int) -> None:
        super().__init__()
        self.dw = CONVS[spatial](channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.gamma = nn.Parameter(0.3 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        y = self.norm(self.dw(x).movedim(1, -1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.movedim(-1, 1)


class Merging(nn.Module):
    """Four neighbouring pixels concatenated along the channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H/2, W/2)."""
        x = x.permute(0, 2, 3, 1)
        four = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.reduction(torch.cat(four, -1)).permute(0, 3, 1, 2)


class Standardized(nn.Module):
    """A convolution whose kernel is computed from its parameters."""

    def __init__(self, channels: int, out: int, spatial: int, how: str) -> None:
        super().__init__()
        self.how, self.spatial = how, spatial
        self.weight = nn.Parameter(torch.randn(out, channels, *(3,) * spatial) / channels)
        self.bias = nn.Parameter(torch.zeros(out))
        if how == "scaled":
            self.gain = nn.Parameter(torch.ones(out, *(1,) * (spatial + 1)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C', ...)."""
        weight: Tensor = self.weight
        if self.how == "centred":
            weight = weight - weight.mean(tuple(range(1, weight.dim())), keepdim=True)
        elif self.how == "scaled":
            weight = self.gain * weight
        elif self.how == "bounded":
            weight = torch.tanh(weight)
        if self.spatial == 1:
            return F.conv1d(x, weight, self.bias, padding=1)
        if self.spatial == 3:
            return F.conv3d(x, weight, self.bias, padding=1)
        return F.conv2d(x, weight, self.bias, padding=1)


class Written(nn.Module):
    """A function is applied to a part of the channels, and the result is written back."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        """(N, A + B, ...) -> the same shape."""
        y = torch.zeros_like(x)
        y[:, : self.first] = torch.tanh(x[:, : self.first])
        y[:, self.first :] = x[:, self.first :]
        return y


class Gram(nn.Module):
    """Attention between channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        flat = x.flatten(2)
        scores = (flat @ flat.transpose(1, 2)).softmax(-1)
        return x + (scores @ flat).view_as(x)


class Rotary(nn.Module):
    """Attention whose queries and keys are rotated by their positions."""

    inv_freq: Tensor

    def __init__(self, stream: int, heads: int, half: int, values: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (
            nn.Linear(stream, heads * wide, bias=False) for wide in (2 * half, 2 * half, values)
        )
        self.o = nn.Linear(heads * values, stream, bias=False)
        self.register_buffer("inv_freq", 1.0 / 10 ** (torch.arange(half) / half))

    def turned(self, x: Tensor) -> Tensor:
        """(N, H, L, D) -> (N, H, L, D)."""
        angle = torch.arange(x.size(2), device=x.device)[:, None] * self.inv_freq
        cos, sin = (torch.cat([f, f], -1) for f in (angle.cos(), angle.sin()))
        one, two = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-two, one], -1) * sin

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        n, length = x.shape[:2]
        q, k, v = (
            f(x).view(n, length, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
        return x + self.o(y.transpose(1, 2).reshape(n, length, -1))


class EncoderLayer(nn.Module):
    """The computation of `nn.TransformerEncoderLayer`, with the same names and any widths."""

    def __init__(
        self, stream: int, heads: int, widths: tuple[int, int], hidden: int, whole: int, first: bool
    ) -> None:
        super().__init__()
        self.self_attn = FreeAttention(stream, heads, widths, whole**-0.5)
        self.linear1, self.linear2 = nn.Linear(stream, hidden), nn.Linear(hidden, stream)
        self.norm1, self.norm2 = nn.LayerNorm(stream), nn.LayerNorm(stream)
        self.norm_first = first

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""

        def attend(y: Tensor) -> Tensor:
            return self.self_attn(y, need_weights=False)[0]

        def feed(y: Tensor) -> Tensor:
            return self.linear2(torch.relu(self.linear1(y)))

        if self.norm_first:
            x = x + attend(self.norm1(x))
            return x + feed(self.norm2(x))
        x = self.norm1(x + attend(x))
        return self.norm2(x + feed(x))


class Learned(nn.Module):
    """Learned queries attend to a sequence, or a token is prepended to it."""

    def __init__(self, stream: int, own: int, width: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, own))
        self.q, self.kv = nn.Linear(own, width), nn.Linear(stream, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, Q, D)."""
        k, v = self.kv(x).chunk(2, dim=-1)
        q = self.q(self.queries).expand(x.shape[0], -1, -1)
        return torch.bmm(torch.bmm(q, k.mT).mul(0.5).softmax(-1), v)


class ClassToken(nn.Module):
    """A learned token before the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L + 1, C)."""
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)


class LastState(nn.Module):
    """The final state of an LSTM or GRU."""

    def __init__(self, kind: str, channels: int, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(channels, hidden) if kind == "lstm" else nn.GRU(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, C')."""
        state = self.rnn(x.transpose(0, 1))[1]
        return (state[0] if isinstance(state, tuple) else state)[-1]


def convnext(p: Program, v: int) -> None:
    """A ConvNeXt block."""
    value, term, hidden = p.values[v], p.values[v].term, p.axis()
    if isinstance(term, Fixed):
        raise Unfit
    d = SPATIAL[value.kind]
    mixes(term)
    dims = prefixed("dw", kernel(term, Fixed(1), d, 3))
    dims |= {"norm.weight": (Dim(term),), "norm.bias": (Dim(term),), "gamma": (Dim(term),)}
    dims |= prefixed("up", linear(hidden, term)) | prefixed("down", linear(term, hidden))
    p.add(lambda n: ConvNext(n(term), n(hidden), d), [v], [(term, value.kind)], dims)


def merging(p: Program, v: int) -> None:
    """Swin's merging of patches."""
    value, term, out = p.values[v], p.values[v].term, p.axis()
    if any(n % 2 for n in value.extent) or size(term, {}) > WIDEST // 6:
        raise Unfit
    p.any_extent = False
    dims = prefixed("reduction", linear(out, Beside((term,) * 4), bias=False))
    p.add(lambda n: Merging(n(term), n(out)), [v], [(out, value.kind)], dims)


def computed(p: Program, v: int) -> None:
    """A convolution with a computed kernel."""
    value, term, out = p.values[v], p.values[v].term, p.axis()
    how, d = p.draw.choice(("plain", "scaled", "bounded", "centred", "parametrized")), 0
    d = SPATIAL[value.kind]
    dims = kernel(out, term, d, 3)
    if how in ("centred", "parametrized"):
        mixes(term)
    if how in ("centred", "bounded", "parametrized"):  # is not multiplied as its parameter is
        both_ways(term, term)
    if how == "parametrized":
        dims = {
            "conv.parametrizations.weight.original0": (Dim(out), *(1,) * (d + 1)),
            "conv.parametrizations.weight.original1": dims["weight"],
            "conv.bias": dims["bias"],
        }
        p.add(
            lambda n: Conv(weight_norm(CONVS[d](n(term), n(out), 3, padding=1)), None, None),
            [v],
            [(out, value.kind)],
            dims,
        )
        return
    if how == "scaled":
        dims["gain"] = (Dim(out), *(1,) * (d + 1))
        both_ways(out, out)  # gradients of a product's factors are not those of its own
    p.add(lambda n: Standardized(n(term), n(out), d, how), [v], [(out, value.kind)], dims)


def cut(p: Program, v: int) -> None:
    """Channels of an axis divided at some index, or written in two parts."""
    value, term = p.values[v], p.values[v].term
    if not isinstance(term, Axis) or term.width < 3:
        raise Unfit
    if not term.parts:
        at = p.draw.randint(1, term.width - 1)
        term.parts, term.side_by_side = (Axis(at), Axis(term.width - at)), True
        for part in term.parts:
            part.mixed, part.paired = term.mixed, term.paired
    if not term.side_by_side or len(term.parts) != 2:
        raise Unfit
    first, second = term.parts
    if p.chance(0.5):
        p.add(lambda n: Written(n(first)), [v], [(term, value.kind)])
        return
    p.add(lambda n: Cut(n(first)), [v], [(first, value.kind), (second, value.kind)])


class Cut(nn.Module):
    """The channels before an index, and those from it on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, A + B, ...) -> (N, A, ...) and (N, B, ...)."""
        return x[:, : self.first], x[:, self.first :]


def gram(p: Program, v: int) -> None:
    """Attention between channels."""
    value, term = p.values[v], p.values[v].term
    mixes(term)
    both_ways(term, term)
    p.add(lambda _: Gram(), [v], [(term, value.kind)])


def rotary(p: Program, v: int) -> None:
    """Attention with rotary positions."""
    term = p.values[v].term
    if isinstance(term, Fixed):
        raise Unfit
    heads, half, deep = Axis(p.draw.choice((1, 2))), Axis(p.draw.choice((3, 4))), Axis(5)
    half.paired = half.scaled = True
    turned, own = Each((heads, Beside((half, half)))), Each((heads, deep))
    dims: Named = {"inv_freq": (Dim(half),)}
    dims |= prefixed("q", linear(turned, term, False)) | prefixed("k", linear(turned, term, False))
    dims |= prefixed("v", linear(own, term, False)) | prefixed("o", linear(term, own, False))
    p.add(lambda n: Rotary(n(term), n(heads), n(half), n(deep)), [v], [(term, SEQUENCE)], dims)


def encoder(p: Program, v: int) -> None:
    """Several `nn.TransformerEncoderLayer` in sequence, on a stream of their width."""
    heads, wide = p.draw.choice(((1, 3), (2, 3), (2, 2), (3, 2)))
    into, stream = p.values[v].term, Axis(heads * wide, mixed=True)
    make_stream = lambda n: nn.Linear(n(into), n(stream))  # noqa: E731
    [v] = p.add(make_stream, [v], [(stream, SEQUENCE)], linear(stream, into))
    count, first = p.draw.choice((1, 2)), p.chance(0.5)
    dims: Named = {}
    axes = []
    for number in range(count):
        own = head, width, deep, hidden = Axis(heads), Axis(wide), Axis(wide), p.axis()
        width.paired = True
        axes.append(own)
        keys, values = Each((head, width)), Each((head, deep))
        rows = Beside((keys, keys, values))
        found: Named = {
            "self_attn.in_proj_weight": (Dim(rows), Dim(stream, reads=True)),
            "self_attn.in_proj_bias": (Dim(rows),),
        } | prefixed("self_attn.out_proj", linear(stream, values))
        found |= prefixed("linear1", linear(hidden, stream))
        found |= prefixed("linear2", linear(stream, hidden))
        found |= {
            f"{n}.{m}": (Dim(stream),) for n in ("norm1", "norm2") for m in ("weight", "bias")
        }
        dims |= prefixed(str(number), found)

    def layer(n: Sizes, own: tuple[Axis, ...]) -> nn.Module:
        head, width, deep, hidden = own
        wide_enough = n(head) * n(width) == n(head) * n(deep) == n(stream)
        if wide_enough and n(width) == wide:
            return nn.TransformerEncoderLayer(
                n(stream), n(head), n(hidden), 0.0, batch_first=True, norm_first=first
            )
        return EncoderLayer(n(stream), n(head), (n(width), n(deep)), n(hidden), wide, first)

    p.add(
        lambda n: nn.Sequential(*(layer(n, own) for own in axes)), [v], [(stream, SEQUENCE)], dims
    )


def learned(p: Program, v: int) -> None:
    """Learned queries, or a class token."""
    term = p.values[v].term
    if p.chance(0.5):
        if isinstance(term, Fixed):
            raise Unfit
        dims: Named = {"cls_token": (1, 1, Dim(term))}
        p.add(lambda n: ClassToken(n(term)), [v], [(term, SEQUENCE)], dims)
        return
    own, width = p.axis(), p.axis()  # keys and values have as many channels
    queries = Axis(2, mixed=True)  # which lie along the positions of what they give
    width.paired = True
    dims = {"queries": (1, Dim(queries), Dim(own))} | prefixed("q", linear(width, own))
    dims |= prefixed("kv", linear(Beside((width, width)), term))
    p.add(lambda n: Learned(n(term), n(own), n(width), n(queries)), [v], [(width, SEQUENCE)], dims)


def last_state(p: Program, v: int) -> None:
    """The last state of a recurrent layer."""
    term, hidden, kind = p.values[v].term, p.axis(2, 4), p.draw.choice(("lstm", "gru"))
    hidden.paired = True
    rows = Beside((hidden,) * (4 if kind == "lstm" else 3))
    dims: Named = {
        "rnn.weight_ih_l0": (Dim(rows), Dim(term, reads=True)),
        "rnn.weight_hh_l0": (Dim(rows), Dim(hidden, reads=True)),
        "rnn.bias_ih_l0": (Dim(rows),),
        "rnn.bias_hh_l0": (Dim(rows),),
    }
    p.add(lambda n: LastState(kind, n(term), n(hidden)), [v], [(hidden, VECTOR)], dims)
