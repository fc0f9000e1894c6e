"""The data on which a network is trained, calibrated and tested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor]
"""Inputs (S, ...), and their classes: (S,), or (S, T) for T positions each."""


@dataclass(frozen=True)
class Task:
    """A network and its data.

    Attributes:
        build: builds the newly initialised network.
        batches: `batches(seed, epoch)`, a pass over the training samples.
        some: `some(seed, epoch)`, a pass over a fixed part of them, for fine-tuning.
        calibration: `calibration(seed)`, a few hundred training samples without augmentation.
        settling: training samples without augmentation, for recomputing norm statistics.
        validation: held-out samples of the training set, for choosing.
        test: test samples, on which nothing is chosen.
    """

    build: Callable[[], nn.Module]
    batches: Callable[[int, int], Iterator[Batch]]
    some: Callable[[int, int], Iterator[Batch]]
    calibration: Callable[[int], list[Batch]]
    settling: Sequence[Batch]
    validation: Sequence[Batch]
    test: Sequence[Batch]

    def trained(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The network with its weights, in eval mode."""
        model = self.build()
        model.load_state_dict(weights)
        return model.eval()


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each sample (S,), averaged over its positions if it has several."""
    classes = batch[1]
    logits = model(batch[0])
    each = functional.cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none")
    return each.view(len(classes), -1).mean(1)


@torch.inference_mode()
def accuracy_and_loss(model: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
    """(accuracy in percent, mean cross-entropy in nats) of a network in evaluation mode."""
    was = model.training
    model.eval()
    right, total, count = 0, 0.0, 0
    for inputs, classes in batches:
        logits = model(inputs).flatten(0, -2)
        right += int((logits.argmax(1) == classes.flatten()).sum())
        total += float(functional.cross_entropy(logits, classes.flatten(), reduction="sum"))
        count += classes.numel()
    model.train(was)
    return 100 * right / count, total / count
