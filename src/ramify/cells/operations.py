"""Operations on edges, and blocks between cells, built as chains of standard layers if possible.

A supernet can evaluate a chain (`nn.Sequential` of convolutions, norms, pools and ReLU) on several
edges at once; see `ramify.cells.mixed`. All convolutions are without bias.

Shape letters: `N` samples, `C` channels, `H`, `W` pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# With fewer channels in channels-last layout, the gradient of a 1×1 convolution of stride 2
# corrupts memory on CPUs without AVX-512 (torch 2.13, oneDNN's kernel for AVX2).
_ONEDNN_FEWEST = 8


class Zero(nn.Module):
    """The operation `none`: zeros of the output size."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to zeros (N, C, ⌈H / stride⌉, ⌈W / stride⌉)."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class FactorizedReduce(nn.Module):
    """Halve the size: ReLU, two 1×1 convolutions of stride 2, offset by one pixel, a norm.

    Source: DARTS (Liu, Simonyan and Yang, 2019), after NASNet.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool) -> None:
        super().__init__()
        half = out_channels // 2
        self.even = nn.Conv2d(in_channels, half, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels - half, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out_channels, ⌈H / 2⌉, ⌈W / 2⌉)."""
        x = F.relu(x)
        if x.shape[1] < _ONEDNN_FEWEST:
            x = x.contiguous()
        # Offset by one pixel with padding, since a slice does not keep the layout of the gradient.
        odd = F.pad(x, (-1, x.shape[3] % 2, -1, x.shape[2] % 2))
        return self.norm(torch.cat([self.even(x), self.odd(odd)], dim=1))


class Residual(nn.Module):
    """A residual block that halves the size: two ReLU-Conv-BN of 3×3, and pooling with a 1×1.

    Source: the block between the stages of NAS-Bench-201 (Dong and Yang, 2020).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            relu_conv_norm(in_channels, out_channels, 3, stride=2),
            relu_conv_norm(out_channels, out_channels, 3),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2), nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out_channels, H / 2, W / 2)."""
        return self.shortcut(x) + self.body(x)


def relu_conv_norm(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, affine: bool = True
) -> nn.Sequential:
    """ReLU, convolution, batch norm."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels, affine=affine),
    )


def separable(
    channels: int, kernel: int, stride: int, affine: bool, dilation: int = 1
) -> nn.Sequential:
    """ReLU, depthwise convolution, 1×1 convolution, batch norm."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(
            channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
        ),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def twice_separable(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """Two separable convolutions, the first with the stride."""
    return nn.Sequential(
        *separable(channels, kernel, stride, affine), *separable(channels, kernel, 1, affine)
    )


def max_pool(stride: int) -> nn.MaxPool2d:
    """3×3 max pooling that keeps the size at stride 1."""
    return nn.MaxPool2d(3, stride=stride, padding=1)


def average_pool(stride: int) -> nn.AvgPool2d:
    """3×3 average pooling that keeps the size at stride 1; padding does not count."""
    return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)
