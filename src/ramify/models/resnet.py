"""Residual networks of basic blocks, in their form for CIFAR."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ramify.errors import RamifyError
from ramify.models.blocks import conv_norm_relu


class BasicBlock(nn.Module):
    """Residual block ``relu(s(x) + bn2(conv2(relu(bn1(conv1(x))))))`` of 3×3 convolutions.

    The shortcut ``s`` is the identity if the shapes match, otherwise a 1×1 convolution with batch
    norm.

    Args:
        in_channels: channels of the input stream.
        width: channels inside the block and of the output stream.
        stride: stride of the first convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = (
            None
            if stride == 1 and in_channels == width
            else nn.Sequential(
                nn.Conv2d(in_channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
        )

    def forward(self, stream: Tensor) -> Tensor:
        """From a stream (S, in_channels, H, W) to (S, width, H / stride, W / stride)."""
        inner = functional.relu(self.bn1(self.conv1(stream)))
        kept = stream if self.shortcut is None else self.shortcut(stream)
        return functional.relu(kept + self.bn2(self.conv2(inner)))


class ResNet(nn.Module):
    """A 3×3 convolution, batch norm, ReLU, three stages of basic blocks, mean, a linear layer.

    Args:
        in_channels: channels of an image.
        classes: number of classes, K.
        depth: number of layers, 6 n + 2 for n blocks per stage: 20, 32, 44, 56, ...
        width: channels of the first stage; the next two have twice and four times as many.

    Raises:
        RamifyError: if the depth is not 6 n + 2 with n of 1 or more.

    Example:
        >>> import torch
        >>> ResNet(in_channels=3, classes=10, depth=8, width=4)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", 2016,
    section 4.2, with the projection shortcuts of its option B.
    """

    def __init__(self, in_channels: int, classes: int, depth: int, width: int) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise RamifyError(
                f"a ResNet of depth {depth} does not exist: the depth is 6 n + 2 for n blocks a "
                "stage, so give 8, 14, 20, 56, 110 or another such number."
            )
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        layers, channels = [], width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W)."""
        stream = functional.relu(self.norm(self.stem(images)))
        return self.head(self.blocks(stream).mean(dim=(2, 3)))


def build(in_channels: int = 3, classes: int = 10, width: int = 16, depth: int = 20) -> ResNet:
    """Build a ResNet; 272 thousand parameters at depth 20 and width 16."""
    return ResNet(in_channels, classes, depth, width)


class StagedResNet(nn.Module):
    """A ResNet whose blocks all keep the shape of their input, so that each can be duplicated.

    Each stage begins with a 3×3 convolution, batch norm and ReLU, with stride 2 in the second and
    third stage, followed by one basic block; then mean and a linear layer.

    Args:
        in_channels: channels of an image.
        classes: number of classes, K.
        width: channels of the first stage; the next two have twice and four times as many.

    Example:
        >>> import torch
        >>> StagedResNet(in_channels=3, classes=10, width=4)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, classes: int, width: int) -> None:
        super().__init__()
        stages, channels = [], in_channels
        for stage in range(3):
            own = width * 2**stage
            begin = conv_norm_relu(channels, own, stride=2 if stage else 1)
            stages.append(nn.Sequential(begin, BasicBlock(own, own, stride=1)))
            channels = own
        self.stage1, self.stage2, self.stage3 = stages
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W)."""
        return self.head(self.stage3(self.stage2(self.stage1(images))).mean(dim=(2, 3)))


def build_staged(in_channels: int = 3, classes: int = 10, width: int = 16) -> StagedResNet:
    """Build a ResNet with one block per stage; 122 thousand parameters at width 16."""
    return StagedResNet(in_channels, classes, width)
