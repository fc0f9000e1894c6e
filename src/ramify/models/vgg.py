"""VGG-19 in its form for CIFAR."""

from __future__ import annotations

from torch import Tensor, nn

from ramify.models.blocks import conv_norm_relu

STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # (channels, convolutions)


class VGG19(nn.Module):
    """Sixteen 3×3 conv-BN-ReLU layers in five stages with max-pooling; a linear layer.

    On 32×32 images the five poolings leave a single feature vector. Smaller images stop shrinking
    at one pixel; the features of larger images are averaged over the remaining pixels.

    Args:
        in_channels: channels of an image.
        classes: number of classes, K.
        width: channels of every layer; None for the usual 64, 128, 256, 512, 512 of the stages.

    Example:
        >>> import torch
        >>> VGG19(in_channels=3, classes=10, width=8)(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source: K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image
    recognition", ICLR 2015, configuration E; with batch norm and one linear layer, as in the CIFAR
    experiments of the splitting papers.
    """

    def __init__(self, in_channels: int, classes: int, width: int | None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for usual, count in STAGES:
            out_channels = usual if width is None else width
            for _ in range(count):
                layers.append(conv_norm_relu(channels, out_channels))
                channels = out_channels
            layers.append(nn.MaxPool2d(2, ceil_mode=True))  # keeps one pixel as one pixel
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W)."""
        return self.head(self.features(images).mean(dim=(2, 3)))


def build(in_channels: int = 3, classes: int = 10, width: int | None = None) -> VGG19:
    """Build VGG-19; 20.0 million parameters at the usual widths."""
    return VGG19(in_channels, classes, width)
