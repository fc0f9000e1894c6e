"""Networks that every baseline is tried on, and what they are measured with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from tests.nets import SMOOTH, prepared


class Transformer(nn.Module):
    """One pre-norm block: attention and an MLP on a stream of five channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n1, self.n2 = nn.Linear(3, 5), nn.LayerNorm(5), nn.LayerNorm(5)
        self.qkv, self.out = nn.Linear(5, 12), nn.Linear(4, 5)
        self.up, self.down, self.fc = nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = self.qkv(self.n1(x)).chunk(3, -1)
        x = x + self.out((q @ k.mT / 2).softmax(-1) @ v)
        x = x + self.down(gelu(self.up(self.n2(x))))
        return self.fc(x.mean(1))


class Cell(nn.Module):
    """A layer that feeds itself: what is displaced reads copies of its own channels."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.h, self.fc = nn.Linear(3, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.tanh(self.i(x[:, 0]))
        for step in range(1, x.shape[1]):
            state = torch.tanh(self.i(x[:, step]) + self.h(state))
        return self.fc(state)


class Vision(nn.Module):
    """A ViT of the package `transformers`, from a configuration: its logits."""

    def __init__(self) -> None:
        super().__init__()
        hf = pytest.importorskip("transformers", reason="the extra `transformers` is missing")
        sizes = {"hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2}
        shapes = {"intermediate_size": 4, "image_size": 4, "patch_size": 2, "num_channels": 1}
        self.net = hf.ViTForImageClassification(hf.ViTConfig(**sizes, **shapes, num_labels=2))
        for parameter in self.net.parameters():
            parameter.data.mul_(8)  # attention is all but uniform where weights are as first drawn

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).logits


KINDS = ["perceptron", "conv-bn-softplus", "residual", "depthwise", "transformer", "cell"]
KINDS += ["attention", "vit"]
MORE = {"transformer": (Transformer, (4, 3)), "cell": (Cell, (3, 3)), "vit": (Vision, (1, 4, 4))}

Batch = tuple[Tensor, Tensor]


def build(kind: str) -> tuple[nn.Module, Batch]:
    """A float64 network in eval mode, and a batch of twelve samples."""
    if kind in SMOOTH:
        return prepared(kind)
    made, shape = MORE[kind]
    net = made().double().eval()
    return net, (torch.randn(12, *shape).double(), torch.randint(0, 2, (12,)))


def halved(batch: Batch) -> list[Batch]:
    """Two batches of different size."""
    return [(batch[0][:5], batch[1][:5]), (batch[0][5:], batch[1][5:])]
