"""The two networks: a residual one with batch norm, and a vision transformer of `transformers`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from transformers import ViTConfig, ViTForImageClassification

from ramify.models import resnet


class Logits(nn.Module):
    """A `transformers` classifier as a module that maps images to logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (S, K) of images (S, C, H, W)."""
        return self.network(images).logits


def _vit() -> nn.Module:
    config = ViTConfig(
        image_size=28,
        patch_size=7,
        num_channels=1,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        id2label={n: str(n) for n in range(10)},
    )
    return Logits(ViTForImageClassification(config))


@dataclass(frozen=True)
class Network:
    """A network, its data, and its learning rates.

    Attributes:
        title: for tables and pictures.
        data: name of the data set.
        build: returns the network with newly initialized weights.
        rates: optimizer -> learning rate.
        pool: side of the pixel squares that are averaged to make images smaller.
    """

    title: str
    data: str
    build: Callable[[], nn.Module]
    rates: dict[str, float]
    pool: int = 1


NETWORKS = {
    "resnet20": Network(
        "ResNet-20 on CIFAR-10 of 16×16",
        "cifar10",
        lambda: resnet.build(3, 10, width=8, depth=20),
        {"adamw": 1e-3, "sgd": 0.02},
        pool=2,
    ),
    "vit": Network("ViT on MNIST", "mnist", _vit, {"adamw": 1e-3, "sgd": 0.02}),
}
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD, momentum 0.9"}


def make_optimizer(name: str, model: nn.Module, rate: float) -> Optimizer:
    """A new optimizer over all parameters."""
    if name == "sgd":
        return SGD(model.parameters(), lr=rate, momentum=0.9)
    return AdamW(model.parameters(), lr=rate)
