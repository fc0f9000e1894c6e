"""Convolutions of every kind, pooling, padding, pixel and channel shuffles."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.structures.base import structure


@structure((3, 4), {"a": "6 split", "b": "5 split", "c": "2 frozen"})
class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5, bias=False), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.dropout(F.gelu(self.b(torch.tanh(self.a(x)))), 0.5, self.training))


@structure((2, 3, 12), {"a": "4 split", "b": "6 split", "c": "2 frozen"})
class Conv1d(nn.Module):
    """Strided and dilated; flattened into a linear layer, whose columns come in blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(3, 4, 3, stride=2, padding=1)
        self.b = nn.Conv1d(4, 6, 3, dilation=2, padding="same")
        self.c = nn.Linear(6 * 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.leaky_relu(self.a(x)), 2)
        x = F.adaptive_avg_pool1d(F.silu(self.b(x)), 2)
        return self.c(x.flatten(1))


@structure((1, 2, 4, 6, 6), {"a": "4 split", "b": "6 split", "c": "2 frozen"})
class Conv3d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv3d(2, 4, 3, padding=1), nn.BatchNorm3d(4)
        self.b = nn.Conv3d(4, 6, (1, 3, 3), stride=(1, 2, 2))
        self.c = nn.Linear(6 * 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool3d(F.elu(self.n(self.a(x))), 2)
        x = F.max_pool3d(self.b(F.interpolate(x, scale_factor=2.0)), (2, 2, 2))
        return self.c(x.flatten(1))


@structure(
    (2, 3, 8, 8),
    {"a:0": "2 split", "a:1": "3 split", "b": "4 split", "c": "2 frozen"},
)
class Grouped(nn.Module):
    """Two groups of three inputs and four outputs: three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 8, 3, groups=2, bias=True)
        self.c = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x))))).mean((2, 3))


@structure((2, 3, 8, 8), {"a": "4 split", "b": "2 split", "c": "2 frozen"})
class Depthwise(nn.Module):
    """A depthwise convolution with multiplier 2 carries its inputs and makes a second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.b, self.m = nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)
        self.d = nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False)
        self.c = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.n(self.a(x)))
        return self.c(self.d(F.hardswish(self.m(self.b(x))))).sum((2, 3))


@structure((2, 3, 5, 5), {"a": "4 split", "b": "6 split", "c": "2 frozen"})
class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1)
        self.c = nn.ConvTranspose2d(6, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.sigmoid(self.b(F.softplus(self.a(x)))))


@structure((2, 3, 9), {"a:0": "2 split", "a:1": "2 split", "b": "3 split", "c": "2 frozen"})
class GroupedTransposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv1d(3, 4, 3)
        self.b = nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2)
        self.c = nn.ConvTranspose1d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


@structure((2, 3, 12, 12), {"a": "4 split", "b": "5 split", "c": "3 split", "d": "2 frozen"})
class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 3, 1)
        self.d = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.avg_pool2d(self.a(x), 2), 3, stride=1, padding=1)
        x = F.adaptive_max_pool2d(F.lp_pool2d(self.b(x).abs(), 2.0, 2), 4)
        x = F.adaptive_avg_pool2d(F.pad(self.c(x), (1, 1, 1, 1), mode="reflect"), 1)
        return self.d(x.squeeze(-1).squeeze(-1))


@structure((2, 3, 6, 6), {"a": "4 inexact", "b": "2 frozen"})
class PoolIndices(nn.Module):
    """The indices of a max pool number space, not channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, index = F.max_pool2d(self.a(x), 2, return_indices=True)
        return self.b(value * torch.sigmoid(value)) + 0.1 * index.to(value.dtype).mean()


@structure(
    (2, 3, 8, 8),
    {"stem": "4 split", "a": "5 split", "head": "2 frozen"},
)
class ChannelPadding(nn.Module):
    """The shortcut of a CIFAR ResNet: strided, with zero channels put on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.b = nn.Conv2d(5, 6, 3, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        x = torch.relu(self.b(torch.relu(self.a(x))) + shortcut)
        return self.head(x.mean((2, 3)))


@structure((2, 3, 6, 6), {"a:0": "2 split", "a:1": "4 frozen", "b": "3 split", "c": "2 frozen"})
class PixelShuffle(nn.Module):
    """Blocks of four channels become space and come back."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 3, 3, padding=1)
        self.c = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(F.pixel_shuffle(self.a(x), 2))))
        return self.c(F.pixel_unshuffle(x, 2))


@structure(
    (2, 3, 6, 6),
    {"a:0": "2 frozen", "a:1": "2 split", "a:2": "2 split", "b": "2 split", "c": "2 frozen"},
)
class ChannelShuffleModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.shuffle = nn.Conv2d(3, 8, 1), nn.ChannelShuffle(2)
        self.b, self.c = nn.Conv2d(8, 4, 1, groups=2), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(self.shuffle(torch.relu(self.a(x))))))


@structure((2, 3, 6, 6), {"a:0": "2 frozen", "a:1": "3 split", "c": "2 frozen"})
class ShuffleUnit(nn.Module):
    """ShuffleNet: half the channels pass, half are convolved, then they are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, dim=1)
        x = torch.cat([left, torch.relu(self.b(right))], dim=1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.c(x)


@structure((2, 3, 6, 6), {"kernel": "4 split", "fc": "2 frozen"})
class BareParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.shift = nn.Parameter(torch.randn(1, 4, 1, 1))
        self.fc = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.conv2d(x, self.kernel) + self.shift)
        return x.mean((-1, -2)) @ self.fc.T


@structure((2, 3, 6, 6), {"a": "2 split", "b": "2 frozen"})
class Unfold(nn.Module):
    """Patches as columns: a convolution written as a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 1), nn.Linear(2 * 9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.unfold(torch.relu(self.a(x)), 3).transpose(1, 2)).mean(1)


class Modulated(nn.Module):
    """A convolution whose kernel is scaled for each sample, all samples as groups of one."""

    def __init__(self, channels: int, made: int) -> None:
        super().__init__()
        self.style, self.made = nn.Linear(3, channels), made
        self.weight = nn.Parameter(0.3 * torch.randn(1, made, channels, 3, 3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        b, c, h, w = x.shape
        kernel = self.weight * self.style(style).view(b, 1, c, 1, 1)
        kernel = kernel * (kernel.pow(2).sum([2, 3, 4]) + 1e-8).rsqrt().view(b, self.made, 1, 1, 1)
        kernel = kernel.view(b * self.made, c, 3, 3)
        x = F.conv2d(x.reshape(1, b * c, h, w), kernel, padding=1, groups=b)
        return x.view(b, self.made, h, w)


@structure(
    (2, 3),
    {
        "a.style:0": "1 frozen",
        "a.style:1": "4 prune",
        "b.style": "6 prune",
        "rgb": "2 frozen",
        "b": "5 split",
    },
)
class ModulatedConvolutions(nn.Module):
    """A learned image for all samples, and channels that no sum over weights makes."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Parameter(torch.randn(1, 4, 3, 3))
        self.a, self.b, self.rgb = Modulated(4, 6), Modulated(6, 5), nn.Conv2d(5, 2, 1)

    def forward(self, style: Tensor) -> Tensor:
        x = self.image.repeat(style.shape[0], 1, 1, 1)
        return self.rgb(torch.tanh(self.b(torch.tanh(self.a(x, style)), style)))
