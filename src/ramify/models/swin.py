"""Swin Transformer from the transformers library, newly initialised, sized for small images."""

from __future__ import annotations

import importlib
import math
from typing import Any

from torch import Tensor, nn

from ramify.imports import require

EMBEDDING = 96
HEAD = 32  # dimensions of a head
DEPTHS = (2, 2, 6, 2)
GRID, WINDOW = 4, 7  # patches per side: fewest in the last stage, most in a window


class Swin(nn.Module):
    """``SwinForImageClassification`` that returns its logits.

    Args:
        config: a ``transformers.SwinConfig``.

    Source: Z. Liu and others, "Swin Transformer: hierarchical vision transformer using shifted
    windows", 2021.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.net = library().SwinForImageClassification(config)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W)."""
        logits: Tensor = self.net(images).logits
        return logits


def build(
    in_channels: int = 3,
    classes: int = 10,
    width: int | None = None,
    in_features: int = 3072,
    depths: tuple[int, ...] = DEPTHS,
) -> Swin:
    """Build a Swin Transformer, by default Swin-T: 27.5 million parameters with 20 classes.

    Patches have 4×4 pixels, or 2×2 or 1×1 for images so small that the last stage would have fewer
    than 4 patches per side; windows are as large as the last stage, up to the usual 7×7.

    Args:
        in_channels: channels of an image.
        classes: number of classes.
        width: embedding dimension of the first stage, doubled at each later one; None for 96.
        in_features: values in an image, C·H·W, from which its size follows.
        depths: blocks of each stage.

    Returns:
        The network.

    Raises:
        RamifyError: the transformers library is not installed.
    """
    width = EMBEDDING if width is None else width
    side = math.isqrt(in_features // in_channels)
    merged = 2 ** (len(depths) - 1)
    patch = next((size for size in (4, 2) if side // (size * merged) >= GRID), 1)
    # 32 dimensions per head as in the paper, or more if 32 does not divide the width.
    heads = next(h for h in range(max(1, width // HEAD), 0, -1) if width % h == 0)
    config = library().SwinConfig(
        image_size=side,
        patch_size=patch,
        num_channels=in_channels,
        embed_dim=width,
        depths=list(depths),
        num_heads=[heads * 2**stage for stage in range(len(depths))],
        window_size=min(WINDOW, -(-side // (patch * merged))),
        num_labels=classes,
    )
    return Swin(config)


def library() -> Any:
    """The library, imported only when a network is built, because the import takes seconds."""
    require("transformers", "transformers", "the model swin is built by the library")
    return importlib.import_module("transformers")
