"""The modules that random networks are made of, written as users write them.

Shape letters: `N` samples, `C` channels, `H`, `W` height and width, `L` positions, `D` dimensions
of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[..., Tensor]

POINTWISE: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "in place": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hardswish": nn.Hardswish,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "one slope": nn.PReLU,
    "dropout": lambda: nn.Dropout(0.1),
}


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: Tensor) -> Tensor:
        """The result of the function."""
        return self.function(*given)


class Conv(nn.Module):
    """A convolution, optionally followed by a norm and an activation."""

    def __init__(self, conv: nn.Module, norm: nn.Module | None, act: nn.Module | None) -> None:
        super().__init__()
        self.conv, self.norm, self.act = conv, norm, act

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C', ...)."""
        x = self.conv(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.act is None else self.act(x)


class Joined(nn.Module):
    """One stream and a convolution or linear layer of another, added or multiplied."""

    def __init__(self, branch: nn.Module, how: str, channels: int, spatial: int) -> None:
        super().__init__()
        self.branch, self.how = branch, how
        if how == "scaled":
            self.gamma = nn.Parameter(torch.randn(channels, *(1,) * spatial))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Both of one shape -> the same shape."""
        found = self.branch(y)
        if self.how == "in place":
            found += x
            return found
        if self.how == "product":
            return x * found
        if self.how == "gate":
            return x * torch.sigmoid(found)
        return x + (self.gamma * found if self.how == "scaled" else found)


class Parts(nn.Module):
    """A convolution or linear layer whose channels are divided into parts."""

    def __init__(self, layer: nn.Module, widths: Sequence[int], how: str, dim: int) -> None:
        super().__init__()
        self.layer, self.widths, self.how, self.dim = layer, list(widths), how, dim
        self.first = widths[0]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, A + B, ...) -> (N, A, ...) and (N, B, ...)."""
        x = self.layer(x)
        if self.how == "chunk":
            return x.chunk(2, dim=self.dim)
        if self.how == "slices":
            return (
                x.narrow(self.dim, 0, self.first),
                x.narrow(self.dim, self.first, x.size(self.dim) - self.first),
            )
        if self.how == "indexed" and self.dim == 1:
            return x[:, : self.first], x[:, self.first :]
        if self.how == "unbind":
            one, two = x.unflatten(self.dim, (2, -1)).unbind(self.dim if self.dim > 0 else -2)
            return one, two
        return x.split(self.widths, dim=self.dim)


class Gated(nn.Module):
    """One half of the channels of a layer gates the other."""

    def __init__(self, layer: nn.Module, how: str, dim: int) -> None:
        super().__init__()
        self.layer, self.how, self.dim = layer, how, dim

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2A, ...) -> (N, A, ...)."""
        x = self.layer(x)
        if self.how == "glu":
            return F.glu(x, dim=self.dim)
        one, two = x.chunk(2, dim=self.dim)
        return F.silu(one) * two if self.how == "swiglu" else one * torch.tanh(two)


class SqueezeExcite(nn.Module):
    """Channels are multiplied by a gate computed from their means."""

    def __init__(self, channels: int, hidden: int, spatial: int, convs: bool) -> None:
        super().__init__()
        self.dims, self.convs = tuple(range(2, 2 + spatial)), convs
        self.one: nn.Module
        self.two: nn.Module
        if convs:
            self.one, self.two = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        else:
            self.one, self.two = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        if self.convs:
            gate = self.two(torch.relu(self.one(F.adaptive_avg_pool2d(x, 1))))
            return x * gate.sigmoid()
        gate = torch.sigmoid(self.two(F.silu(self.one(x.mean(self.dims)))))
        return x * gate[(..., *(None,) * len(self.dims))]


class LastNorm(nn.Module):
    """A norm over the channels of an image."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class Affine(nn.Module):
    """A norm over channels as ConvNeXt writes it, or a scale and shift of each channel."""

    def __init__(self, channels: int, spatial: int, normed: bool) -> None:
        super().__init__()
        shape = (channels, *(1,) * spatial)
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.normed = normed

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        if self.normed:
            mean = x.mean(1, keepdim=True)
            x = (x - mean) / ((x - mean).square().mean(1, keepdim=True) + 1e-5).sqrt()
        return self.weight * x + self.bias


class Shuffle(nn.Module):
    """Channels of several groups, interleaved."""

    def __init__(self, groups: int, how: str) -> None:
        super().__init__()
        self.groups, self.how = groups, how

    def forward(self, x: Tensor) -> Tensor:
        """(N, G·I, ...) -> (N, I·G, ...)."""
        if self.how == "module":
            return F.channel_shuffle(x, self.groups)
        n, c = x.shape[:2]
        if self.how == "sizes":
            x = x.view(n, self.groups, c // self.groups, *x.shape[2:])
            return x.transpose(1, 2).reshape(n, c, *x.shape[3:])
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class OverGroups(nn.Module):
    """The sum, mean or maximum over groups of channels."""

    def __init__(self, groups: int, how: str) -> None:
        super().__init__()
        self.groups, self.how = groups, how

    def forward(self, x: Tensor) -> Tensor:
        """(N, G·I, ...) -> (N, I, ...)."""
        x = x.reshape(x.shape[0], self.groups, -1, *x.shape[2:])
        return x.sum(1) if self.how == "sum" else x.mean(1) if self.how == "mean" else x.amax(1)


class Flat(nn.Module):
    """A linear layer on the flattened image."""

    def __init__(self, features: int, out: int, how: str) -> None:
        super().__init__()
        self.fc, self.features, self.how = nn.Linear(features, out), features, how

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O)."""
        if self.how == "flatten":
            return self.fc(x.flatten(1))
        if self.how == "view":
            return self.fc(x.reshape(-1, self.features))
        if self.how == "count":
            return self.fc(x.reshape(x.size(0), x[0].numel()))
        return self.fc(x.reshape(x.size(0), -1))


class Weights(nn.Module):
    """A product with a parameter, written in several ways."""

    def __init__(self, before: int, after: int, how: str) -> None:
        super().__init__()
        self.how = how
        shape = (after, before) if how == "linear" else (before, after)
        self.weight = nn.Parameter(torch.randn(shape) / before**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., A) -> (..., B)."""
        if self.how == "linear":
            return F.linear(x, self.weight)
        if self.how == "matmul":
            return x @ self.weight
        if self.how == "mm":
            return torch.mm(x.reshape(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)
        return torch.einsum("...a,ab->...b", x, self.weight)


class Outer(nn.Module):
    """All products of the entries of two vectors."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, A) and (N, B) -> (N, A·B)."""
        return torch.einsum("ni,nj->nij", x, y).flatten(1)


class Tokens(nn.Module):
    """Embedded tokens, perhaps with positions."""

    def __init__(self, width: int, tokens: int, length: int, positions: str) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(tokens, width), positions
        if positions == "table":
            self.position = nn.Embedding(length, width)
        elif positions == "parameter":
            self.place = nn.Parameter(torch.randn(1, length, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, L) -> (N, L, C)."""
        found: Tensor = self.embed(x)
        if self.positions == "table":
            return found + self.position(torch.arange(x.shape[1], device=x.device))
        return found + self.place[:, : x.shape[1]] if self.positions == "parameter" else found


class TransformerMlp(nn.Module):
    """A pre-norm residual MLP, perhaps gated."""

    def __init__(self, width: int, hidden: int, gated: bool, norm: str) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width) if norm == "rms" else nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gate = nn.Linear(width, hidden, bias=False) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        y = self.norm(x)
        hidden = F.gelu(self.up(y)) if self.gate is None else F.silu(self.gate(y)) * self.up(y)
        return x + self.down(hidden)


class Block(nn.Module):
    """A residual block of two layers."""

    def __init__(self, norm: nn.Module, one: nn.Module, two: nn.Module) -> None:
        super().__init__()
        self.norm, self.one, self.two = norm, one, two

    def forward(self, x: Tensor) -> Tensor:
        """Of one shape -> the same shape."""
        return x + self.two(torch.relu(self.one(self.norm(x))))


class Stack(nn.Module):
    """Blocks one after the other."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Of one shape -> the same shape."""
        for block in self.blocks:
            x = block(x)
        return x


class CellLoop(nn.Module):
    """A recurrent cell, called for one position after another."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.cell, self.hidden = nn.GRUCell(channels, hidden), hidden

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C')."""
        state, found = x.new_zeros(x.shape[0], self.hidden), []
        for one in x.unbind(1):
            state = self.cell(one, state)
            found.append(state)
        return torch.stack(found, 1)


class Recurrent(nn.Module):
    """The outputs of a GRU, LSTM or RNN."""

    def __init__(self, kind: str, channels: int, hidden: int, layers: int, both: bool) -> None:
        super().__init__()
        make = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[kind]
        self.rnn = make(channels, hidden, layers, batch_first=True, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C')."""
        found: Tensor = self.rnn(x)[0]
        return found


class Film(nn.Module):
    """Channels are scaled and shifted by a linear layer's outputs for their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        ones = (1,) * (x.dim() - 2)
        scale, shift = self.fc(x.flatten(2).mean(-1)).chunk(2, dim=1)
        return x * (1 + scale.view(*scale.shape, *ones)) + shift.view(*shift.shape, *ones)


class Dynamic(nn.Module):
    """A depthwise convolution whose kernels are computed from each sample."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, L) -> (N, C, L)."""
        n, c, length = x.shape
        weight = self.kernel(x.mean(-1)).view(n * c, 1, 3)
        return F.conv1d(x.reshape(1, n * c, length), weight, padding=1, groups=n * c).view_as(x)


class GroupedLinear(nn.Module):
    """One matrix for each group of channels."""

    def __init__(self, groups: int, before: int, after: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.randn(groups, before, after) / before)
        self.bias = nn.Parameter(torch.zeros(groups, 1, after))

    def forward(self, x: Tensor) -> Tensor:
        """(N, G·I) -> (N, G·O)."""
        x = x.unflatten(1, (self.weight.shape[0], -1))
        if self.how == "einsum":
            return (torch.einsum("ngi,gio->ngo", x, self.weight) + self.bias[:, 0]).flatten(1)
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1).flatten(1)


class Maxout(nn.Module):
    """The maximum of two layers, written as one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C', ...)."""
        return self.layer(x).unflatten(1, (-1, 2)).amax(2)


class Unfolded(nn.Module):
    """A convolution as a linear layer of unfolded patches."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(9 * channels, out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H·W, C')."""
        return self.fc(F.unfold(x, 3, padding=1).transpose(1, 2))


class Experts(nn.Module):
    """Layers whose outputs are weighted by a gate."""

    def __init__(self, experts: Sequence[nn.Module], gate: nn.Module, dim: int) -> None:
        super().__init__()
        self.experts, self.gate, self.dim = nn.ModuleList(experts), gate, dim

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C', ...)."""
        gates = self.gate(x).softmax(self.dim)
        found = [expert(x) for expert in self.experts]
        return sum(y * g for y, g in zip(found, gates.split(1, self.dim), strict=True))
