"""A vision transformer for images of 32×32."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Self-attention over all patches.

    Args:
        width: width of the stream.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, stream: Tensor) -> Tensor:
        """The update that is added to a stream (S, T, E)."""
        parts = (self.query(stream), self.key(stream), self.value(stream))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm residual attention and MLP.

    Args:
        width: width of the stream.
        heads: number of heads.
        hidden: hidden units of the MLP.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, stream: Tensor) -> Tensor:
        """Stream (S, T, E) of a stream (S, T, E)."""
        stream = stream + self.attention(self.norm1(stream))
        return stream + self.mlp(self.norm2(stream))


class ViT(nn.Module):
    """Three convolutions, learned positions, blocks, a norm, mean over positions, a linear layer.

    The convolutions reduce an image to 4×4 positions; a network that is trained only for minutes
    learns more with them than with plain patches.

    Args:
        width: width of the stream.
        depth: number of blocks.
        heads: number of heads.

    Source: A. Dosovitskiy and others, "An image is worth 16×16 words", 2021, with the mean over
    positions instead of a class token; T. Xiao and others, "Early convolutions help transformers
    see better", 2021.
    """

    def __init__(self, width: int = 128, depth: int = 6, heads: int = 4) -> None:
        super().__init__()
        sides = [3, width // 4, width // 2, width]
        self.patches = nn.Sequential(
            *(_halved(before, after) for before, after in itertools.pairwise(sides))
        )
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(Block(width, heads, 4 * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, 10) of images (S, 3, 32, 32)."""
        stream = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(stream)).mean(1))


def _halved(before: int, after: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())
