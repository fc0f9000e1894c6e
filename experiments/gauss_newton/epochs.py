"""The training batches of successive epochs, and training for one epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer

from ramify.data import Dataset, batches
from ramify.probe.loss import Loss
from ramify.train.epoch import Training, cross_entropy, train_epoch


@dataclass(frozen=True)
class Epochs:
    """Batches of a data set; each iteration over them is a new epoch.

    Attributes:
        dataset: the source of the batches.
        batch: images per step.
        seed: of the order and the augmentation.
        done: the number of epochs started so far.
    """

    dataset: Dataset
    batch: int
    seed: int
    done: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return math.ceil(len(self.dataset.y_train) / self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.done.append(len(self.done))
        return batches(self.dataset, self.batch, self.seed, self.done[-1])


def train_on(
    model: nn.Module,
    epochs: Epochs,
    optimizer: Optimizer,
    training: Training,
    number: int,
    loss: Loss = cross_entropy,
) -> float:
    """Train for one epoch of a schedule that spans all epochs.

    Args:
        model: the network.
        epochs: the training batches.
        optimizer: from `make_optimizer`.
        training: the settings; its `epochs` is the total number of epochs.
        number: the index of this epoch.
        loss: one value per sample, (S,).

    Returns:
        The mean loss.
    """
    steps = len(epochs)

    def factor(step: int) -> float:
        return training.factor(number * steps + step, training.epochs * steps)

    mean, _ = train_epoch(model, loss, epochs, optimizer, factor)
    return mean
