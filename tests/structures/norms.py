"""Normalisation layers and parametrized weights."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from tests.structures.base import structure


@structure((3, 3, 6, 6), {"a": "4 split", "b": "5 split", "c": "2 frozen"})
class BatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.b, self.m = nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5, affine=False)
        self.c, self.o = nn.Linear(5, 2), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.m(self.b(torch.relu(self.n(self.a(x)))))
        return self.o(self.c(torch.relu(x).mean((2, 3))))


@structure((3, 3, 6, 6), {"a": "4 split", "b": "5 split", "c": "2 frozen"})
class BatchStatistics(nn.Module):
    """Batch norms without running statistics normalise by the batch even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
        self.b = nn.Conv2d(4, 5, 3)
        self.c = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.n(self.a(x))))
        return self.c(F.batch_norm(x, None, None, training=True).relu().mean((2, 3)))


@structure((2, 5, 6), {"a": "4 inexact", "b:0": "2 inexact", "b:1": "3 split", "c": "2 frozen"})
class NormsOverChannels(nn.Module):
    """Batch norms of tokens and of channels of heads: in train mode the others average."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Linear(6, 4), nn.BatchNorm1d(5)
        self.b, self.m = nn.Linear(4, 6), nn.BatchNorm1d(3)
        self.c, self.heads = nn.Linear(6, 2), 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.n(self.a(x))))
        each = x.unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1)
        each = self.m(each.flatten(0, 1)).unflatten(0, (-1, self.heads))
        return self.c(torch.relu(each).permute(0, 3, 1, 2).flatten(2))


@structure((2, 3, 6, 6), {"a": "4 split", "b": "5 split", "d": "3 split", "c": "2 frozen"})
class InstanceNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True)
        self.b, self.m = nn.Conv2d(4, 5, 1), nn.InstanceNorm2d(5)
        self.d = nn.Conv2d(5, 3, 1)
        self.o = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
        self.c = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.m(self.b(torch.relu(self.n(self.a(x)))))
        return self.c(torch.relu(self.o(self.d(torch.relu(x)))))


@structure(
    (2, 3, 6, 6),
    {"a:0": "2 split", "a:1": "3 inexact", "b": "4 split", "d": "5 inexact", "c": "2 frozen"},
)
class GroupNorm(nn.Module):
    """Two groups of three; one group a channel; one group of all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6)
        self.b, self.m = nn.Conv2d(6, 4, 1), nn.GroupNorm(4, 4, affine=False)
        self.d, self.o = nn.Conv2d(4, 5, 1), nn.GroupNorm(1, 5)
        self.c = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.m(self.b(torch.relu(self.n(self.a(x))))))
        return self.c(self.o(self.d(x)))


@structure((2, 7, 4), {"a": "6 inexact", "b": "5 inexact", "d": "4 inexact", "c": "2 frozen"})
class LayerAndRMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Linear(4, 6), nn.LayerNorm(6)
        self.b, self.m = nn.Linear(6, 5), nn.LayerNorm(5, elementwise_affine=False)
        self.d, self.o = nn.Linear(5, 4), nn.RMSNorm(4)
        self.c = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.m(self.b(torch.relu(self.n(self.a(x)))))
        return self.c(self.o(self.d(torch.relu(x))))


@structure((2, 3, 4, 4), {"a": "4 inexact", "b": "2 frozen"})
class ChannelsFirstLayerNorm(nn.Module):
    """The layer norm of ConvNeXt, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.weight, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        mean = x.mean(1, keepdim=True)
        spread = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(spread + 1e-6)
        return self.b(self.weight[:, None, None] * x + self.bias[:, None, None])


@structure((2, 5, 6, 6), {"a": "4 frozen", "b": "2 frozen"})
class LocalResponse(nn.Module):
    """Neighbouring channels are compared: no channel is on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(5, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.local_response_norm(self.a(x), 3))


@structure((2, 7, 4), {"a": "6 inexact", "b": "2 frozen"})
class Normalized(nn.Module):
    """Unit length over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.normalize(self.a(x), dim=-1))


@structure((3, 4), {"a": "5 inexact", "b": "6 split", "c": "2 frozen"})
class WeightNorm(nn.Module):
    """b's columns are normalised together; its rows are independent."""

    def __init__(self) -> None:
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Linear(4, 5))
        self.b = parametrizations.weight_norm(nn.Linear(5, 6))
        self.c = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


@structure((3, 3, 5, 5), {"a": "5 inexact", "b": "6 split", "c": "2 frozen"})
class OldWeightNorm(nn.Module):
    """`torch.nn.utils.weight_norm`: the weight is a plain attribute, set before each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 5, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.b = torch.nn.utils.weight_norm(nn.Conv2d(5, 6, 3))
        self.c = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


@structure((3, 4), {"a": "5 inexact", "b": "6 inexact", "c": "2 frozen"})
class SpectralNorm(nn.Module):
    """Every weight of b depends on all others through the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)
        self.b = parametrizations.spectral_norm(nn.Linear(5, 6))
        self.c = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


@structure((3, 4), {"a": "5 frozen", "c": "2 frozen"})
class SymmetricWeight(nn.Module):
    """A parametrization after which rows and columns are one axis, in a fixed order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        parametrize.register_parametrization(self.b, "weight", Symmetric())

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Standardized(nn.Conv2d):
    """Weight standardization: each kernel has mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        spread = self.weight.var((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / torch.sqrt(spread + 1e-5), self.bias)


@structure((3, 3, 5, 5), {"a": "5 inexact", "b": "6 split", "c": "2 frozen"})
class WeightStandardization(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 5, 1), Standardized(5, 6, 3), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


@structure((3, 4), {"a": "5 prune", "b": "2 frozen"})
class LowRank(nn.Module):
    """A frozen weight with a low-rank update: both read the channels of a."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.down, self.up = nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.a(x)), self.b.weight + self.up @ self.down, self.b.bias)


@structure((2, 3, 6, 6), {"a": "4 split", "b": "5 inexact", "d": "3 split", "c": "2 frozen"})
class StandardisedWeights(nn.Module):
    """Kernels standardised by a batch norm over them, with gains of shape (C, 1, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)
        self.d, self.c = nn.Conv2d(5, 3, 3), nn.Linear(3, 2)
        self.one, self.two = (nn.Parameter(torch.ones(n, 1, 1, 1)) for n in (4, 3))

    @staticmethod
    def standard(conv: nn.Conv2d, gain: Tensor, x: Tensor) -> Tensor:
        flat = conv.weight.reshape(1, conv.out_channels, -1)
        flat = F.batch_norm(flat, None, None, weight=gain.view(-1), training=True)
        return F.conv2d(x, flat.reshape_as(conv.weight), conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.standard(self.a, self.one, x)))
        return self.c(torch.relu(self.standard(self.d, self.two, torch.relu(x))).mean((2, 3)))
