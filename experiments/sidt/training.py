"""A small Swin on some classes of CIFAR-100: accuracy before a prune, after it and after tuning."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from transformers import SwinConfig, SwinForImageClassification

import ramify
from experiments.sidt.swin import SHARES, goals, prunes
from ramify.data import Dataset, batches, load


@dataclass(frozen=True)
class Settings:
    """What the command decides.

    Attributes:
        classes: of CIFAR-100, the first in the alphabet.
        images: for training.
        epochs: before the prune.
        tune: epochs after it.
        batch: images a step.
        rate: learning rate.
    """

    classes: int = 10
    images: int = 600
    epochs: int = 12
    tune: int = 4
    batch: int = 64
    rate: float = 1e-3


@dataclass(frozen=True)
class Arm:
    """One pruned network.

    Attributes:
        seed: of the weights and the order of the images.
        share: of the dimensions pruned; 0 for the network that is trained on as it is.
        params: its parameters.
        before: test accuracy before the prune, and after it, and after tuning.
    """

    seed: int
    share: float
    params: int
    before: float
    after: float
    tuned: float


def small_swin(classes: int) -> nn.Module:
    """Six blocks in three stages on images of 32×32, without dropout: 567,046 parameters."""
    settings: dict[str, Any] = {"image_size": 32, "patch_size": 2, "window_size": 4}
    settings |= {"embed_dim": 32, "depths": [2, 2, 2], "num_heads": [2, 4, 8]}
    settings |= {"drop_path_rate": 0.0, "num_labels": classes}
    config = SwinConfig(**settings)
    return SwinForImageClassification(config)


def some(dataset: Dataset, classes: int, images: int) -> Dataset:
    """The first classes of a data set, so many images of them for training."""
    train, test = dataset.y_train < classes, dataset.y_test < classes
    return replace(
        dataset,
        x_train=dataset.x_train[train][:images],
        y_train=dataset.y_train[train][:images],
        x_test=dataset.x_test[test],
        y_test=dataset.y_test[test],
    )


def study(seed: int, settings: Settings, tick: Callable[[], None]) -> list[Arm]:
    """Train a network, prune copies of it, and train each on.

    Args:
        seed: of the weights and the order of the images.
        settings: what to do.
        tick: called after every epoch.

    Returns:
        An arm for no prune and for each of `SHARES`.
    """
    torch.manual_seed(seed)
    data = some(load("cifar100"), settings.classes, settings.images)
    model = small_swin(settings.classes)
    optimizer = AdamW(model.parameters(), lr=settings.rate, weight_decay=0.05)

    def train(model: nn.Module, optimizer: Optimizer, start: int, epochs: int) -> None:
        for epoch in range(start, start + epochs):
            for x, y in batches(data, settings.batch, seed, epoch):
                optimizer.zero_grad()
                cross_entropy(model(x).logits, y).backward()
                optimizer.step()
            tick()

    train(model, optimizer, 0, settings.epochs)
    before, arms = accuracy(model, data), []
    for share in (0.0, *SHARES):
        pruned, carried = copy.deepcopy((model, optimizer))
        if share:
            graph = ramify.trace(pruned, data.x_train[:1])
            ramify.apply(graph, prunes(graph, goals(graph, share)), optimizer=carried)
        after, params = accuracy(pruned, data), sum(p.numel() for p in pruned.parameters())
        train(pruned, carried, settings.epochs, settings.tune)
        arms.append(Arm(seed, share, params, before, after, accuracy(pruned, data)))
    return arms


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset) -> float:
    """The share of test images that are classified right; the model is left in training mode."""
    model.eval()
    right: list[Tensor] = [
        model(x).logits.argmax(1) == y
        for x, y in zip(data.x_test.split(250), data.y_test.split(250), strict=True)
    ]
    model.train()
    return torch.cat(right).double().mean().item()
