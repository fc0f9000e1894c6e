"""Grow the prototypes one by one, and try every split of the network with five prototypes.

Shapes: S images, D pixels of an image, M prototypes.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import ramify
from experiments.resume import Stage, once
from experiments.s2d.prototype.network import PrototypeNet
from ramify.data import Dataset, batches

Event = dict[str, Any]
PROBED = 1000  # training images that judge the splits
TRIED = 5  # prototypes when every split is tried: the fifth step of Figure 2 (b)


@dataclass(frozen=True)
class Settings:
    """Settings: the final number of prototypes, the epochs before each split, and the loss.

    `near` is the weight of the soft distance to the nearest prototype (mean squared difference per
    pixel) relative to the cross-entropy; `step` is ε.
    """

    prototypes: int = 16
    epochs: int = 2
    batch_size: int = 128
    lr: float = 0.02
    near: float = 50.0
    step: float = 1.0
    seed: int = 0

    def training(self) -> ramify.Training:
        """Adam with a learning rate that falls to 0 in every round."""
        return ramify.Training(epochs=self.epochs, optimizer="adam", lr=self.lr)

    def method(self) -> ramify.SplittingDescent:
        """S2D."""
        return ramify.SplittingDescent(step=self.step)


@dataclass(frozen=True)
class Grown:
    """The events of a growing run, and (M, D) prototypes and votes (M,) at the end of each round.

    `five` is the network with five prototypes.
    """

    events: list[Event]
    images: list[Tensor]
    votes: list[Tensor]
    five: PrototypeNet


@dataclass(frozen=True)
class Trial:
    """One split of one of five prototypes: its splitting index, and the decrease of the loss."""

    channel: int
    index: float
    decrease: float


class Task:
    """MNIST, and the loss of the prototype network on it."""

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        self.dataset, self.settings = dataset, settings
        chosen = torch.randperm(
            len(dataset.y_train), generator=torch.Generator().manual_seed(settings.seed)
        )[:PROBED]
        self.probe = [(dataset.x_train[chosen], dataset.y_train[chosen])]

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The training batches of an epoch."""
        return batches(self.dataset, self.settings.batch_size, self.settings.seed, epoch)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy and the weighted distance to the nearest prototype, (S,)."""
        assert isinstance(model, PrototypeNet)
        logits, distances = model.explain(batch[0])
        crossed = functional.cross_entropy(logits, batch[1], reduction="none")
        return crossed + self.settings.near * distances

    def build(self) -> PrototypeNet:
        """One nearly blank prototype."""
        torch.manual_seed(self.settings.seed)
        return PrototypeNet(self.dataset.x_train[0].numel(), len(self.dataset.classes), width=1)

    def accuracy(self, model: PrototypeNet) -> float:
        """Share of the test images that are classified correctly."""
        with torch.no_grad():
            found = model(self.dataset.x_test).argmax(1)
        return float((found == self.dataset.y_test).float().mean())


def grow(task: Task) -> Grown:
    """Alternate training with splitting the one best prototype, up to the final number."""
    settings, latest = task.settings, {}

    def watch(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, PrototypeNet)
        latest[len(model.prototypes)] = copy.deepcopy(model)  # the last of a round stays
        return {"test_accuracy": task.accuracy(model)}

    grown = ramify.grow(
        task.build(),
        task.dataset.x_train[:1],
        task.loss,
        task.batches,
        method=settings.method(),
        rule=ramify.Threshold(most=1),
        training=settings.training(),
        rounds=settings.prototypes - 1,
        probe=task.probe,
        evaluate=watch,
        trial=False,
    )
    images = [model.prototypes.detach() for model in latest.values()]
    votes = [model.head.weight.detach().argmax(0) for model in latest.values()]
    return Grown(grown.history, images, votes, latest[TRIED])


def grown_of(task: Task, stage: Stage) -> Grown:
    """The result of `grow`, from this or an earlier call.

    Args:
        task: the learning task.
        stage: saves the result.

    Returns:
        The events and the networks.
    """

    def make() -> dict[str, Any]:
        grown = grow(task)
        return vars(grown) | {"five": dict(grown.five.state_dict())}

    kept = stage("grown", make)
    images = task.dataset.x_train[0]
    five = PrototypeNet(images.numel(), len(task.dataset.classes), width=TRIED)
    five.load_state_dict(kept["five"])
    return Grown(**kept | {"five": five})


def try_splits(task: Task, five: PrototypeNet, stage: Stage = once) -> list[Trial]:
    """Split each of five prototypes alone and train on, compared with training without a split.

    Args:
        task: the learning task.
        five: the network with five prototypes; it is not changed.
        stage: saves the result of each split.

    Returns:
        A trial for each prototype, in order.
    """
    graph = ramify.trace(five, task.dataset.x_train[:1])
    proposals = task.settings.method().propose(graph, task.loss, task.probe)
    alone = stage("alone", lambda: _trained_loss(task, copy.deepcopy(five)))
    trials = []
    for proposal in sorted(proposals, key=lambda one: one.edit.channel):
        model = copy.deepcopy(five)
        ramify.apply(ramify.trace(model, task.dataset.x_train[:1]), [proposal.edit])
        assert proposal.splitting_index is not None
        assert isinstance(proposal.edit.channel, int)
        channel = proposal.edit.channel
        loss = stage(f"split-{channel}", partial(_trained_loss, task, model))
        trials.append(Trial(channel, proposal.splitting_index, alone - loss))
    return trials


def correlation(trials: Sequence[Trial]) -> float:
    """Pearson's correlation between minus the eigenvalue and the decrease.

    Args:
        trials: at least two.

    Returns:
        A number in [-1, 1]; near 1 if the eigenvalue predicts the decrease.
    """
    indices, decreases = zip(*((-trial.index, trial.decrease) for trial in trials), strict=True)
    return statistics.correlation(indices, decreases)


def _trained_loss(task: Task, model: PrototypeNet) -> float:
    """The mean loss on 10,000 training images after a round of training with a new Adam."""
    ramify.grow(
        model,
        task.dataset.x_train[:1],
        task.loss,
        task.batches,
        method=task.settings.method(),
        rule=ramify.Threshold(most=1),
        training=task.settings.training(),
        rounds=0,
    )
    images, labels = task.dataset.x_train[:10_000], task.dataset.y_train[:10_000]
    with torch.no_grad():
        return float(task.loss(model, (images, labels)).mean())
