"""DS-CNN, a small network for keyword spotting."""

from __future__ import annotations

from torch import Tensor, nn

from ramify.models.blocks import conv_norm_relu

BLOCKS = 4
KERNEL = (10, 4)  # of the first convolution: frames, coefficients


class DSCNN(nn.Module):
    """A 10×4 convolution of stride 2, four depthwise-separable blocks, the mean, one linear layer.

    A block is a depthwise 3×3 convolution and a pointwise one; every convolution has batch norm
    and ReLU.

    Args:
        in_channels: channels of the features, 1 for MFCC.
        classes: number of keywords, K.
        width: channels of every layer.

    Source: Y. Zhang, N. Suda, L. Lai, V. Chandra, "Hello edge: keyword spotting on
    microcontrollers", 2017, DS-CNN in its smallest form (S).
    """

    def __init__(self, in_channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, KERNEL, stride=2, padding=(5, 1), bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    conv_norm_relu(width, width, groups=width),
                    conv_norm_relu(width, width, kernel=1),
                )
                for _ in range(BLOCKS)
            )
        )
        self.head = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (S, K) of features (S, C, frames, coefficients)."""
        return self.head(self.blocks(self.stem(features)).mean(dim=(2, 3)))


def build(in_channels: int = 1, classes: int = 12, width: int = 64) -> DSCNN:
    """Build DS-CNN; 23,180 parameters with 64 channels per layer and 12 keywords."""
    return DSCNN(in_channels, classes, width)
