"""Fine-tuning of a cut network: learning rate, warm-up, and distillation from the full network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ramify.probe.loss import Loss
from ramify.relax import distilled
from ramify.train.epoch import Training, make_optimizer, train_epoch

Batches = Callable[[int], Iterable[Any]]
"""Number of an epoch -> its batches."""


@dataclass(frozen=True)
class Recipe:
    """How a cut network is fine-tuned: warm-up, then a cosine schedule.

    Attributes:
        lr: the highest learning rate.
        epochs: passes over the data.
        warmup: the share of all steps in which the rate rises to `lr`.
        weight_decay: applied to every parameter.
        taught: weight of the distillation loss, times the square of the temperature; 0 for no
            distillation.
        temperature: temperature of the distillation.
        labels: weight of the loss itself.
        optimizer: "sgd" with Nesterov momentum, or "adamw".
    """

    lr: float = 0.01
    epochs: int = 2
    warmup: float = 0.1
    weight_decay: float = 1e-4
    taught: float = 1.0
    temperature: float = 2.0
    labels: float = 0.0
    optimizer: str = "sgd"


def tuned(
    model: nn.Module, loss: Loss, batches: Batches, recipe: Recipe, teacher: nn.Module | None = None
) -> nn.Module:
    """Fine-tune a network in place.

    Args:
        model: the cut network.
        loss: `loss(model, batch)` -> (S,).
        batches: the batches of an epoch.
        recipe: how to fine-tune.
        teacher: the full network, required by `recipe.taught`.

    Returns:
        The network, in eval mode, with the norm statistics from training.
    """
    training = Training(
        epochs=recipe.epochs,
        optimizer=recipe.optimizer,
        lr=recipe.lr,
        nesterov=True,
        weight_decay=recipe.weight_decay,
        warmup=recipe.warmup,
    )
    optimizer, done = make_optimizer(model, training), 0
    goal = loss if teacher is None or not recipe.taught else _taught(loss, teacher, recipe)
    for epoch in range(recipe.epochs):
        own = list(batches(epoch))

        def factor(step: int, done: int = done, total: int = recipe.epochs * len(own)) -> float:
            return training.factor(done + step, total)

        train_epoch(model, goal, own, optimizer, factor)
        done += len(own)
    return model.eval()


def _taught(loss: Loss, teacher: nn.Module, recipe: Recipe) -> Loss:
    """The weighted sum of the loss on the labels and the distillation loss."""
    weight = recipe.taught * recipe.temperature**2

    def labelled(model: nn.Module, batch: Any) -> Tensor:
        return recipe.labels * loss(model, batch)

    return distilled(labelled, teacher, recipe.temperature, weight)


class Remembered(nn.Module):
    """A teacher that caches its outputs, since images with only random flips recur often.

    Args:
        teacher: in eval mode; its output is a tensor with one row per sample.
    """

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self._known: dict[bytes, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of the teacher, (S, K)."""
        keys = [hashlib.blake2b(one.numpy().tobytes()).digest() for one in x]
        new = [n for n, key in enumerate(keys) if key not in self._known]
        if new:
            for n, row in zip(new, self.teacher(x[new]), strict=True):
                self._known[keys[n]] = row
        return torch.stack([self._known[key] for key in keys])
