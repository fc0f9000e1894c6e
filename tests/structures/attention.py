"""Attention in every common spelling, and products of activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.structures.base import structure


@structure(
    (2, 5, 4),
    {
        "layer.self_attn:0": "2 split",
        "layer.self_attn:1": "2 split",
        "layer.self_attn:2": "2 split",
        "layer.self_attn.out_proj": "4 frozen",
        "layer.linear1": "6 split",
        "layer.linear2": "4 frozen",
        "c": "2 frozen",
    },
)
class EncoderLayer(nn.Module):
    """`nn.TransformerEncoderLayer`: its stream is the input's, heads and hidden units are free."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.c = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.layer(x))


@structure(
    (2, 5, 4),
    {
        "a": "4 split",
        "att:0": "2 inexact",
        "att:1": "2 split",
        "att:2": "2 split",
        "att.out_proj": "4 split",
        "c": "2 frozen",
    },
)
class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` called with weights asked for: their mean depends on the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.att, self.c = nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.a(x)
        value, weights = self.att(x, x, x)
        return self.c(value), weights


@structure(
    (2, 5, 4),
    {
        "kv": "4 split",
        "att:0": "2 split",
        "att:1": "2 prune",
        "att:2": "2 split",
        "att.out_proj": "4 split",
        "c": "2 frozen",
    },
)
class CrossAttention(nn.Module):
    """`nn.MultiheadAttention` whose keys come from elsewhere: its bias is read in pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.kv, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.att = nn.MultiheadAttention(4, 2, add_bias_kv=True)

    def forward(self, x: Tensor) -> Tensor:
        keys = torch.tanh(self.kv(x))
        return self.c(self.att(self.a(x), keys, keys, need_weights=False)[0])


class FusedAttention(nn.Module):
    def __init__(self, dim: int, heads: int, head: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * heads * head), nn.Linear(heads * head, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, -1))


@structure(
    (2, 3, 8, 8),
    {
        "patch": "6 inexact",
        "att.qkv:0": "3 frozen",
        "att.qkv:1": "2 split",
        "att.qkv:2": "3 split",
        "fc1": "7 split",
        "head": "2 frozen",
    },
)
class ViT(nn.Module):
    """Patches, class token, position table, pre-norm blocks with fused qkv."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.place = nn.Parameter(torch.randn(1, 5, 6))
        self.n1, self.n2, self.n3 = nn.LayerNorm(6), nn.LayerNorm(6), nn.LayerNorm(6)
        self.att = FusedAttention(6, 2, 3)
        self.fc1, self.fc2, self.head = nn.Linear(6, 7), nn.Linear(7, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.size(0), -1, -1), x], dim=1) + self.place
        x = x + self.att(self.n1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.n2(x))))
        return self.head(self.n3(x)[:, 0])


@structure((2, 5, 4), {"q:0": "2 split", "q:1": "3 split", "v": "4 split", "c": "2 frozen"})
class WrittenOut(nn.Module):
    """Separate q, k, v of the stream's width; scores by matmul, scaled by the head's width."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.q, self.k, self.v = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 8)
        self.c = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.size(-1))).softmax(-1)
        return self.c((scores @ v).transpose(1, 2).flatten(2))


@structure((2, 5, 4), {"q": "3 split", "v": "6 split", "c": "2 frozen"})
class FixedScale(nn.Module):
    """Scores scaled by a number: what makes q takes the scale of a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 6)
        self.c = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.einsum("bnd,bmd->bnm", self.q(x), self.k(x)) * 0.5
        return self.c(torch.einsum("bnm,bmd->bnd", scores.softmax(-1), self.v(x)))


@structure((2, 5, 4), {"a": "6 split", "c": "2 frozen"})
class TupleOfSizes(nn.Module):
    """A shape kept whole as an attribute, one of its numbers being the width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 6), nn.Linear(6, 2)
        self.gain, self.shape = nn.Parameter(torch.randn(6)), (1, 1, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.a(x)) * self.gain.view(self.shape))


@structure((2, 5, 4), {"kernel": "6 split", "c": "2 frozen"})
class PackedWeights(nn.Module):
    """One kernel and one shift are cut in three before they are used."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift = nn.Parameter(torch.randn(18, 4)), nn.Parameter(torch.randn(18))
        self.c = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        pieces = zip(self.kernel.chunk(3), self.shift.chunk(3), strict=True)
        q, k, v = (F.linear(x, *piece) for piece in pieces)
        return self.c(F.scaled_dot_product_attention(q, k, v))


@structure((2, 5, 4), {"q:0": "2 split", "q:1": "3 split", "v": "5 split", "o": "2 frozen"})
class HeadsInWeights(nn.Module):
    """Kernels with a dimension for heads and one for the channels of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Parameter(torch.randn(2, 4, 3)), nn.Parameter(torch.randn(2, 4, 3))
        self.v, self.o = nn.Parameter(torch.randn(2, 4, 5)), nn.Parameter(torch.randn(2, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnd,hde->bhne", x, w) for w in (self.q, self.k, self.v))
        scores = torch.einsum("bhne,bhme->bhnm", q, k) * q.size(-1) ** -0.5
        return torch.einsum("bhnm,bhme,hef->bnf", scores.softmax(-1), v, self.o)


@structure(
    (2, 5, 4),
    {"qkv:0": "3 frozen", "qkv:1": "2 split", "qkv:2": "3 split", "proj": "2 frozen"},
)
class NamedSizes(nn.Module):
    """Fused qkv whose heads, head width and both together are attributes; an empty cache."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = 2, 3, 6
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(4, 18), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        k, v = (torch.cat([torch.tensor([], dtype=x.dtype), each], dim=-2) for each in (k, v))
        x = (q * self.scale @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, self.attn_dim))


@structure(
    (2, 5, 4),
    {"q:0": "2 split", "q:1": "2 split", "q:2": "3 split", "c": "2 frozen"},
)
class GroupedAttributes(nn.Module):
    """Grouped queries as in Llama: one width of a head for all of q, k and v, counts left to -1."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim, self.num_key_value_groups = 3, 2
        self.q, self.k, self.v = nn.Linear(4, 12), nn.Linear(4, 6), nn.Linear(4, 6)
        self.c = nn.Linear(12, 2)

    def repeated(self, x: Tensor) -> Tensor:
        b, heads, n, d = x.shape
        x = x[:, :, None].expand(b, heads, self.num_key_value_groups, n, d)
        return x.reshape(b, heads * self.num_key_value_groups, n, d)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = self.repeated(k), self.repeated(v)
        out = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.c(out.transpose(1, 2).flatten(2))


@structure(
    (2, 5, 4),
    {
        "kernel:0": "3 frozen",
        "kernel:1": "2 split",
        "kernel:2": "2 split",
        "up": "5 split",
        "c": "2 frozen",
    },
)
class SplitSizeAttribute(nn.Module):
    """As in GPT-2: weights the other way round, and pieces of `split_size`."""

    def __init__(self) -> None:
        super().__init__()
        self.nf, self.split_size, self.head_dim, self.inner = 12, 4, 2, 5
        self.kernel, self.shift = nn.Parameter(torch.randn(4, 12)), nn.Parameter(torch.randn(12))
        self.up, self.c = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.shift, x.view(-1, x.size(-1)), self.kernel)
        q, k, v = flat.view(*x.shape[:-1], self.nf).split(self.split_size, dim=2)
        shape = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (t.view(shape).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, scale=0.7).transpose(1, 2)
        x = self.up(out.reshape(*x.shape[:-1], -1))
        return self.c(torch.relu(x[..., : self.inner]))


@structure(
    (2, 5, 4),
    {"q:0": "2 frozen", "q:1": "2 frozen", "q:2": "3 frozen", "v": "3 frozen", "c": "2 frozen"},
)
class GroupedQueries(nn.Module):
    """Four query heads share two key heads (repeat_interleave), as in Llama."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 12), nn.Linear(4, 6), nn.Linear(4, 6)
        self.c = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 3).transpose(1, 2)
        k = self.k(x).view(b, n, 2, 3).transpose(1, 2).repeat_interleave(2, dim=1)
        v = self.v(x).view(b, n, 2, 3).transpose(1, 2).repeat_interleave(2, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c(out.transpose(1, 2).reshape(b, n, 12))


@structure(
    (2, 5, 4),
    {"q:0": "2 frozen", "q:1": "2 frozen", "q:2": "2 split", "v": "4 split", "c": "2 frozen"},
)
class Rotary(nn.Module):
    """Rotary positions: halves of each head are mixed, by a table of fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8)
        self.c = nn.Linear(8, 2)
        angle = torch.outer(torch.arange(5.0), 1 / 100 ** (torch.arange(0, 4, 2.0) / 4))
        self.register_buffer("mask_cos", torch.cat([angle, angle], -1).cos(), persistent=False)
        self.register_buffer("mask_sin", torch.cat([angle, angle], -1).sin(), persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=-1)
        return x * self.mask_cos + torch.cat([-two, one], dim=-1) * self.mask_sin

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, 2, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.c(out.transpose(1, 2).flatten(2))


@structure(
    (2, 6, 4),
    {"stem": "5 split", "t1": "7 split", "t2": "6 frozen", "f1": "8 split", "c": "2 frozen"},
)
class Mixer(nn.Module):
    """Token mixing works across positions, channel mixing across channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 5)
        self.t1, self.t2 = nn.Linear(6, 7), nn.Linear(7, 6)
        self.f1, self.f2, self.c = nn.Linear(5, 8), nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.t2(F.gelu(self.t1(x.transpose(1, 2)))).transpose(1, 2)
        x = x + self.f2(F.gelu(self.f1(x)))
        return self.c(x.mean(1))


@structure((2, 5, 4), {"a": "3 split", "b": "5 split", "w": "6 split", "c": "2 frozen"})
class Bilinear(nn.Module):
    """einsum with a bare three-way weight, and an outer product of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 5)
        self.w, self.c = nn.Parameter(torch.randn(6, 3, 5)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.einsum("bni,oij,bnj->bno", self.a(x), self.w, self.b(x)))


@structure(
    (2, 5, 4),
    {
        "q:0": "2 frozen",
        "q:1": "3 inexact",
        "q:2": "2 frozen",
        "k": "2 frozen",
        "v": "4 split",
        "c": "2 frozen",
    },
)
class ComplexRotary(nn.Module):
    """Rotary positions by complex numbers: pairs of channels turn together."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 12), nn.Linear(4, 12), nn.Linear(4, 8)
        self.c = nn.Linear(8, 2)

    def turn(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        angle = torch.arange(5.0, dtype=x.dtype).view(5, 1)
        turned = pairs * torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(turned).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.c(out.transpose(1, 2).flatten(2))


@structure(
    (2, 5, 4),
    {"a:0": "2 inexact", "a:1": "3 inexact", "qkv": "3 frozen", "up": "5 split", "c": "2 frozen"},
)
class StreamSizedAttention(nn.Module):
    """Heads as wide together as the stream, whose size the forward takes from the input's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.a, self.qkv, self.proj = nn.Linear(4, 6), nn.Linear(6, 18), nn.Linear(6, 6)
        self.up, self.down, self.c = nn.Linear(6, 5), nn.Linear(5, 6), nn.Linear(6, 2)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        n, t, c = x.shape
        parts = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, c // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * 0.5).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(n, t, c))
        return self.c(x + self.down(torch.relu(self.up(x))))


@structure(
    (2, 5, 4),
    {"a:0": "2 split", "a:1": "3 inexact", "c": "2 frozen"},
)
class StreamSizedScores(nn.Module):
    """The same without a norm, with weights of their own, and scores that stay."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.a, self.q, self.k, self.v = (nn.Linear(n, 6) for n in (4, 6, 6, 6))
        self.proj, self.c = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        shape = *x.shape[:-1], self.heads, x.size(-1) // self.heads
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        found = torch.tanh(q @ k.transpose(-2, -1)) @ v
        return self.c(x + self.proj(found.transpose(1, 2).reshape(x.shape)))


@structure(
    (2, 3, 6),
    {"a": "8 split", "c": "2 frozen"},
)
class SizedLikeAnother(nn.Module):
    """Channels counted by the shape of a tensor that has as many, in a view and in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        one, other = torch.relu(self.a(x)), torch.relu(self.b(x))
        zeros = torch.zeros(2, 3, one.shape[-1], dtype=x.dtype)
        return self.c(one + zeros) + self.c(other.reshape(2, 3, one.size(2)))


@structure(
    (2, 5, 4),
    {"a:0": "2 inexact", "a:1": "3 inexact", "c": "2 frozen"},
)
class FunctionalAttention(nn.Module):
    """Torch's attention function by itself, which asserts heads as wide together as the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.heads = 6, 2
        self.a, self.q, self.k, self.v = (nn.Linear(n, 6) for n in (4, 6, 6, 6))
        self.proj, self.c = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        weights = {f"{name}_proj_weight": getattr(self, name).weight for name in "qkv"}
        biases = torch.cat([self.q.bias, self.k.bias, self.v.bias])
        found, _ = F.multi_head_attention_forward(
            x, x, x, self.width, self.heads, None, biases, None, None, False, 0.0,
            self.proj.weight, self.proj.bias, self.training, use_separate_proj_weight=True,
            **weights,
        )  # fmt: skip
        return self.c(x + found)


@structure(
    (3, 4),
    {"a:0": "2 split", "a:1": "3 split", "b": "2 frozen"},
)
class ListedPieces(nn.Module):
    """Pieces of channels whose sizes a list of the module holds."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces = [2, 3]
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(2, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        one, other = torch.split(torch.relu(self.a(x)), self.pieces, dim=-1)
        return self.b(one) + self.c(other)
