"""Residual networks with pre-activation, in their form for CIFAR."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ramify.errors import RamifyError

EXPANSION = 4  # the residual stream has four times the channels of the 3×3 convolution


class Bottleneck(nn.Module):
    """Residual block ``s(x) + conv3(relu(bn3(conv2(relu(bn2(conv1(relu(bn1(x)))))))))``.

    The convolutions are 1×1, 3×3 and 1×1. The shortcut ``s`` is the identity if the shapes match,
    otherwise a 1×1 convolution of the activated input ``relu(bn1(x))``.

    Args:
        in_channels: channels of the input stream.
        width: channels inside the block; the output stream has four times as many.
        stride: stride of the 3×3 convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.shortcut = (
            None
            if stride == 1 and in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        )

    def forward(self, stream: Tensor) -> Tensor:
        """From a stream (S, in_channels, H, W) to (S, 4 width, H / stride, W / stride)."""
        active = functional.relu(self.bn1(stream))
        inner = functional.relu(self.bn2(self.conv1(active)))
        inner = functional.relu(self.bn3(self.conv2(inner)))
        kept = stream if self.shortcut is None else self.shortcut(active)
        return kept + self.conv3(inner)


class PreResNet(nn.Module):
    """A 3×3 convolution, three stages of bottleneck blocks, norm, ReLU, mean, a linear layer.

    Args:
        in_channels: channels of an image.
        classes: number of classes, K.
        depth: number of layers, 9 n + 2 for n blocks per stage: 20, 56, 164, ...
        width: channels inside the blocks of the first stage; the next two have twice and four
            times as many.

    Raises:
        RamifyError: if the depth is not 9 n + 2 with n of 1 or more.

    Example:
        >>> import torch
        >>> PreResNet(in_channels=3, classes=10, depth=11, width=4)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Identity mappings in deep residual networks", 2016.
    """

    def __init__(self, in_channels: int, classes: int, depth: int, width: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 9)
        if rest or blocks < 1:
            raise RamifyError(
                f"a PreResNet of depth {depth} does not exist: the depth is 9 n + 2 for n blocks a "
                "stage, so give 11, 20, 29, 56, 164 or another such number."
            )
        channels = width
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        layers = []
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(Bottleneck(channels, width * 2**stage, stride))
                channels = EXPANSION * width * 2**stage
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W)."""
        stream = self.blocks(self.stem(images))
        return self.head(functional.relu(self.norm(stream)).mean(dim=(2, 3)))


def build(in_channels: int = 3, classes: int = 10, width: int = 16, depth: int = 20) -> PreResNet:
    """Build a PreResNet; 1.7 million parameters at depth 164 and width 16."""
    return PreResNet(in_channels, classes, depth, width)
