"""Reshapes, cuts, joins, reductions and products written out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.structures.base import structure


@structure((2, 3, 4, 4), {"a": "4 split", "b": "6 split", "c": "2 frozen"})
class Flatten(nn.Module):
    """Blocks of 16 columns; then a literal that follows no edit, on the second group."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Linear(64, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(torch.relu(self.a(x)), start_dim=1)
        return self.c(torch.relu(self.b(x)))


@structure((2, 3, 4, 4), {"a": "4 frozen", "b": "6 split", "c": "2 frozen"})
class LiteralView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Linear(64, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x)).view(x.size(0), 64)
        return self.c(torch.relu(self.b(x)))


@structure(
    (2, 3, 4, 4),
    {"a:0": "2 frozen", "a:1": "2 frozen", "b": "3 split", "d": "4 split", "c": "2 frozen"},
)
class LiteralSlice(nn.Module):
    """`x[:, :2]` stays at 2 whatever the width: the two sides cannot both follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d = nn.Conv2d(3, 6, 1), nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 1)
        self.c = nn.Conv2d(4 + 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.c(torch.cat([self.d(torch.relu(self.b(x[:, :2]))), x[:, 2:]], 1))


@structure((2, 3, 4, 4), {"a:0": "2 split", "a:1": "4 split", "b": "3 split", "c": "2 frozen"})
class SplitSizes(nn.Module):
    """`torch.split` at widths that modules hold: each piece is its own group."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b, self.d = nn.Conv2d(2, 3, 1), nn.Conv2d(4, 3, 1)
        self.c = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        one, two = torch.split(x, [self.b.in_channels, self.d.in_channels], dim=1)
        return self.c(torch.relu(self.b(one)) + torch.relu(self.d(two)))


@structure((2, 5, 4), {"a": "6 split", "c": "2 frozen"})
class UnbindStack(nn.Module):
    """Time steps come apart and together; two branches are stacked and summed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        steps = [torch.tanh(self.a(step)) for step in x.unbind(1)]
        both = torch.stack([torch.stack(steps, 1), self.b(x).relu()], dim=0)
        return self.c(both.sum(0).amax(1))


@structure((2, 3, 4, 4), {"a": "6 split", "b": "4 split", "c": "2 frozen"})
class Rearranged(nn.Module):
    """unflatten, movedim, swapaxes, expand, reshape: the channels stay themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 1), nn.Linear(6, 4)
        self.c = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).movedim(1, -1).reshape(x.size(0), -1, self.a.out_channels)
        x = self.b(x.relu()).swapaxes(1, 2).unsqueeze(1)
        x = x.expand(-1, 3, -1, -1).mean((1, 3))
        return self.c(x[..., None].squeeze(-1))


@structure(
    (2, 3, 4, 4),
    {"a": "4 inexact", "b": "5 prune", "d": "6 inexact", "e": "4 split", "c": "2 frozen"},
)
class Reductions(nn.Module):
    """a is averaged over channels, b summed, d read by its maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.d = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(3, 6, 1)
        self.e, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).mean(1, keepdim=True)
        b = self.b(x).tanh().sum(dim=1, keepdim=True)
        d = self.d(x).amax(1, keepdim=True)
        return self.c(self.e(torch.cat([a, b, d], 1)).relu())


@structure(
    (2, 3, 4, 4),
    {"a:0": "1 frozen", "a:1": "3 frozen", "b": "4 frozen", "d": "4 frozen", "c": "2 frozen"},
)
class Picked(nn.Module):
    """Channels by number: select, index, flip, gather."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.d, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, d = self.a(x), self.b(x), self.d(x)
        return self.c(a[:, [3, 2, 1, 0]] + a[:, :1] + b.flip(1) + d.roll(1, dims=1))


@structure((2, 4), {"a": "3 frozen", "b": "5 split", "c": "2 frozen"})
class OuterProduct(nn.Module):
    """Channel by channel products of one group with itself, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 5), nn.Linear(9, 2)
        self.d = nn.Linear(15, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        own = (a[:, :, None] * a[:, None, :]).flatten(1)
        return self.c(own) + self.d(torch.einsum("bi,bj->bij", a, b).flatten(1))


@structure((2, 3, 4, 4), {"a": "4 split", "d": "4 split", "b": "3 split", "c": "2 frozen"})
class Repeated(nn.Module):
    """repeat puts copies one after another, repeat_interleave side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 3, 1)
        self.d = nn.Conv2d(3, 4, 1)
        self.e, self.c = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, d = self.a(x).relu(), self.d(x).relu()
        both = self.b(a.repeat(1, 2, 1, 1)) + self.e(d.repeat_interleave(2, dim=1))
        return self.c(both.relu())


@structure((2, 4), {"a": "5 prune", "d": "3 split", "c": "2 frozen"})
class Dots(nn.Module):
    """Products of activations: similarity of two towers, and a product over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)
        self.d, self.e, self.c = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        one = (self.a(x) * self.b(x)).sum(-1, keepdim=True)
        two = torch.bmm(self.d(x)[:, None], self.e(x)[:, :, None]).flatten(1)
        return self.c(torch.cat([one, two], -1))


@structure((2, 3, 8), {"a": "4 split", "b": "5 split", "c": "2 frozen"})
class Windows(nn.Module):
    """`Tensor.unfold` along space: each channel keeps its place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(3, 4, 1), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x)).unfold(2, 4, 2).amax(-1)
        return self.c(torch.relu(self.b(x.transpose(1, 2))))


@structure((2, 3, 4, 4), {"a": "4 split", "b": "5 split", "c": "2 frozen"})
class ChannelsLastMean(nn.Module):
    """The mean over space of a channels-last tensor is given other strides afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x.to(memory_format=torch.channels_last)))
        x = nn.functional.adaptive_avg_pool2d(self.b(torch.tanh(x)), 1)
        return self.c(x.flatten(1))


@structure((2, 5, 4), {"a": "4 split", "b": "6 split", "c": "2 frozen"})
class WrittenWithMasks(nn.Module):
    """Positions chosen by a mask, and rows by number, get a token of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 2)
        self.token, self.rows = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x[..., 0] > 0
        x = self.a(x)
        x[hidden] = self.token
        x = nn.functional.gelu(self.b(torch.tanh(x)))
        x[:, torch.tensor([1, 3])] = torch.relu(self.rows)
        return self.c(x)


@structure((2, 8, 4), {"a": "5 split", "b": "3 frozen", "c": "2 frozen"})
class Fourier(nn.Module):
    """A transform along the positions, and one along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.fft.fft(self.a(x), dim=1).real
        return self.c(torch.fft.irfft(torch.fft.rfft(self.b(torch.tanh(x)), dim=-1), n=3, dim=-1))
