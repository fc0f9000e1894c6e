"""How much worse a cut network may be than the full one, on samples that nothing was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.train.epoch import evaluate

MEASURES = ("accuracy", "loss")
SHARE, LEAST, MOST = 0.1, 100, 2000
"""So large a part of the training data is held out: this share, at least and at most so many."""
SLACK = 1e-6  # for the last bits of a sum

Batches = list[tuple[Tensor, Tensor]]


def checked_allowance(accept: Mapping[str, float]) -> None:
    """Make sure that an allowance is one.

    Args:
        accept: ``accuracy``, the change in points, which is 0 or less, and ``loss``, the rise of
            the mean loss, which is 0 or more.

    Raises:
        RamifyError: It is of something else, or has the wrong sign.
    """
    for name, change in accept.items():
        if name not in MEASURES:
            raise RamifyError(
                f"accept is of {' or '.join(MEASURES)}, and got {name!r}: give accuracy=-1.0 for "
                "one point of accuracy less, or loss=0.05 for a loss that is 0.05 higher."
            )
        if (change > 0) if name == "accuracy" else (change < 0):
            raise RamifyError(
                f"accept allows {name}={change:g}, and the full network is not to be surpassed: "
                f"give {f'accuracy={-change:g}' if name == 'accuracy' else f'loss={-change:g}'}."
            )


def held_out(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Divide the training data into what the run trains on, and what judges the cuts.

    Args:
        dataset: The data of the run.
        seed: Of the job.

    Returns:
        The data without the part that is held out; and with that part alone as training data.

    Raises:
        RamifyError: There is too little.
    """
    count = len(dataset.x_train)
    number = min(max(LEAST, round(SHARE * count)), MOST)
    if 2 * number > count:
        raise RamifyError(
            f"accept measures on {number} training samples that are held out of the training, and "
            f"{dataset.name} has {count} of them: give a budget or a ratio instead."
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held, rest = order[:number], order[number:].sort().values
    x, y = dataset.x_train, dataset.y_train
    one, two = (replace(dataset, x_train=x[part], y_train=y[part]) for part in (rest, held))
    return one, two


@dataclass(frozen=True)
class Acceptance:
    """Whether a cut network is good enough, against the full one.

    Attributes:
        allowed: What :func:`checked_allowance` takes.
        held: The samples that were held out, in batches.
        accuracy: Of the full network on them, in [0, 1].
        loss: Of the full network on them.
    """

    allowed: Mapping[str, float]
    held: Batches
    accuracy: float
    loss: float

    @classmethod
    def against(cls, full: nn.Module, allowed: Mapping[str, float], held: Batches) -> Acceptance:
        """The judge that compares with a network."""
        loss, accuracy = evaluate(full, held)
        return cls(allowed, held, accuracy, loss)

    def __call__(self, model: nn.Module) -> bool:
        """Whether the network loses no more than is allowed."""
        loss, accuracy = evaluate(model, self.held)
        least = self.accuracy + self.allowed.get("accuracy", -100.0) / 100
        most = self.loss + self.allowed.get("loss", float("inf"))
        return accuracy >= least - SLACK and loss <= most + SLACK

    def measures(self, model: nn.Module) -> dict[str, float]:
        """What the network has on the samples that were held out, for the events."""
        loss, accuracy = evaluate(model, self.held)
        return {"held_loss": loss, "held_accuracy": accuracy}
