"""A small convolutional network for small images: the seed network of the demo."""

from __future__ import annotations

from torch import Tensor, nn

from ramify.models.blocks import conv_norm_relu


class DigitsNet(nn.Module):
    """Three 3×3 conv-BN-ReLU layers, max-pooled after the first and second, then a linear layer.

    Args:
        in_channels: channels of an image.
        classes: number of classes, K.
        width: channels of each of the three layers.

    Example:
        >>> import torch
        >>> DigitsNet(in_channels=1, classes=10, width=4)(torch.randn(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.layer1 = conv_norm_relu(in_channels, width)
        self.layer2 = conv_norm_relu(width, width)
        self.layer3 = conv_norm_relu(width, width)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W), at least 4×4 pixels."""
        images = self.pool(self.layer1(images))
        images = self.pool(self.layer2(images))
        return self.head(self.layer3(images).mean(dim=(2, 3)))


def build(in_channels: int = 1, classes: int = 10, width: int = 4) -> DigitsNet:
    """Build the digits net; 398 parameters with 4 channels a layer and 10 classes."""
    return DigitsNet(in_channels, classes, width)
