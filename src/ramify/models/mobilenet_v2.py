"""MobileNetV2, with a stride of its first layer that depends on the image size."""

from __future__ import annotations

from torch import Tensor, nn

from ramify.models.blocks import conv_norm_relu

STEM, LAST = 32, 4  # channels of the first layer; ratio of the last layer to the last block
STAGES = (  # (expansion, channels, blocks, stride)
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
DROPOUT = 0.2
LARGE = 64 * 64  # pixels from which the first layer has the paper's stride of 2


class InvertedResidual(nn.Module):
    """A 1×1 convolution that widens, a depthwise 3×3 one, and a 1×1 one without activation.

    The input is added if its shape equals that of the output.

    Args:
        in_channels: input channels.
        out_channels: output channels.
        expansion: ratio of inner to input channels; with 1 the widening convolution is omitted.
        stride: stride of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(conv_norm_relu(in_channels, hidden, kernel=1, most=6))
        layers += [
            conv_norm_relu(hidden, hidden, stride=stride, groups=hidden, most=6),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, images: Tensor) -> Tensor:
        """Features (S, out_channels, H / stride, W / stride) of (S, in_channels, H, W)."""
        return images + self.layers(images) if self.residual else self.layers(images)


class MobileNetV2(nn.Module):
    """A 3×3 convolution, 17 inverted residuals, a 1×1 convolution, dropout and a linear layer.

    Args:
        in_channels: channels of an image.
        classes: number of classes, K.
        width: channels of the first convolution and of every block, a quarter of those of the last
            convolution; None for the usual 32, then 16 to 320, and 1280.
        stride: stride of the first convolution: 2 in the paper; 1 suits small images.

    Example:
        >>> import torch
        >>> MobileNetV2(3, classes=10, width=8, stride=2)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: M. Sandler and others, "MobileNetV2: inverted residuals and linear bottlenecks", 2018,
    table 2.
    """

    def __init__(self, in_channels: int, classes: int, width: int | None, stride: int) -> None:
        super().__init__()
        channels = STEM if width is None else width
        layers: list[nn.Module] = [conv_norm_relu(in_channels, channels, stride=stride, most=6)]
        for expansion, usual, blocks, first in STAGES:
            made = usual if width is None else width
            for block in range(blocks):
                step = first if block == 0 else 1
                layers.append(InvertedResidual(channels, made, expansion, step))
                channels = made
        layers.append(conv_norm_relu(channels, LAST * channels, kernel=1, most=6))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(DROPOUT)
        self.head = nn.Linear(LAST * channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W)."""
        return self.head(self.dropout(self.features(images).mean(dim=(2, 3))))


def build(
    in_channels: int = 3, classes: int = 10, width: int | None = None, in_features: int = 3072
) -> MobileNetV2:
    """Build MobileNetV2, 3.5 million parameters at the usual widths and 1000 classes.

    Args:
        in_channels: channels of an image.
        classes: number of classes.
        width: see :class:`MobileNetV2`.
        in_features: values in an image, C·H·W: from 64×64 pixels the first convolution has stride
            2, below that 1. The whole network divides rows and columns by 32, or by 16.

    Returns:
        The network.
    """
    stride = 2 if in_features // in_channels >= LARGE else 1
    return MobileNetV2(in_channels, classes, width, stride)
