"""MobileNetV1 in its form for CIFAR."""

from __future__ import annotations

from torch import Tensor, nn

from ramify.models.blocks import conv_norm_relu

STEM = 32
BLOCKS = (  # (channels, stride)
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
)


class MobileNetV1(nn.Module):
    """A 3×3 convolution, thirteen depthwise-separable blocks and a linear layer.

    A block is a depthwise 3×3 convolution and a pointwise one, each with batch norm and ReLU. For
    CIFAR the first convolution has stride 1.

    Args:
        in_channels: channels of an image.
        classes: number of classes, K.
        width: channels of the first convolution and of every block; None for the usual 32, then 64
            to 1024.

    Example:
        >>> import torch
        >>> MobileNetV1(in_channels=3, classes=10, width=8)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: A. Howard and others, "MobileNets: efficient convolutional neural networks for mobile
    vision applications", 2017, table 1.
    """

    def __init__(self, in_channels: int, classes: int, width: int | None) -> None:
        super().__init__()
        channels = STEM if width is None else width
        layers = [conv_norm_relu(in_channels, channels)]
        for usual, stride in BLOCKS:
            out_channels = usual if width is None else width
            layers.append(
                nn.Sequential(
                    conv_norm_relu(channels, channels, stride=stride, groups=channels),
                    conv_norm_relu(channels, out_channels, kernel=1),
                )
            )
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W)."""
        return self.head(self.features(images).mean(dim=(2, 3)))


def build(in_channels: int = 3, classes: int = 10, width: int | None = None) -> MobileNetV1:
    """Build MobileNetV1; 3.2 million parameters at the usual widths."""
    return MobileNetV1(in_channels, classes, width)
