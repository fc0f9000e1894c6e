"""How much worse a cut network may be than the full one, on samples that nothing was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ramify.data import Dataset, Metric, Task
from ramify.data.metric import ACCURACY, LOSS
from ramify.data.task import CLASSIFICATION
from ramify.errors import RamifyError, did_you_mean
from ramify.train.epoch import evaluate

SHARE, LEAST, MOST = 0.1, 100, 2000
"""So large a part of the training data is held out: this share, at least and at most so many."""
SLACK = 1e-6  # for the last bits of a sum

Batches = list[tuple[Tensor, Tensor]]


def checked_allowance(accept: Mapping[str, float], metric: Metric = ACCURACY) -> None:
    """Make sure that an allowance is one.

    Args:
        accept: the key of the metric, such as ``accuracy``, and its change, in points where it is a
            share: 0 or less where a higher number is better, else 0 or more; and ``loss``, the rise
            of the mean loss.
        metric: Of the task.

    Raises:
        RamifyError: It is of something else, or has the wrong sign.
    """
    known = {one.key: one for one in (metric, LOSS)}
    for name, change in accept.items():
        if name not in known:
            raise RamifyError(
                f"accept is of {' or '.join(known)}, and got {name!r}{did_you_mean(name, known)}: "
                f"give {_example(metric)}loss="
                "0.05 for a loss that is 0.05 higher."
            )
        if known[name].worth(change) > 0:
            raise RamifyError(
                f"accept allows {name}={change:g}, and the full network is not to be surpassed: "
                f"give {name}={-change:g}."
            )


def _example(metric: Metric) -> str:
    """An allowance of a metric, in words; nothing where the loss is the metric."""
    if metric == LOSS:
        return ""
    if metric.percent:
        return f"{metric.key}=-1.0 for one point of {metric.words} less, or "
    way, change = ("less", "-0.01") if metric.higher else ("more", "0.01")
    return f"{metric.key}={change} for 0.01 of {metric.words} {way}, or "


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
            f"accept measures on {number} training samples that are held out of the training, so "
            f"that {2 * number} are needed in all, and {dataset.name} has {count}: give a budget "
            "or a ratio instead."
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
        value: The metric of the full network on them; accuracy in [0, 1].
        loss: Of the full network on them.
        task: What the networks are for.
    """

    allowed: Mapping[str, float]
    held: Batches
    value: float
    loss: float
    task: Task = CLASSIFICATION

    @classmethod
    def against(
        cls,
        full: nn.Module,
        allowed: Mapping[str, float],
        held: Batches,
        task: Task = CLASSIFICATION,
    ) -> Acceptance:
        """The judge that compares with a network."""
        loss, value = evaluate(full, held, task)
        return cls(allowed, held, value, loss, task)

    def __call__(self, model: nn.Module) -> bool:
        """Whether the network loses no more than is allowed."""
        loss, value = evaluate(model, self.held, self.task)
        metric, inf = self.task.metric, float("inf")
        fall = -metric.worth(self.allowed.get(metric.key, metric.worth(-inf))) / metric.scale
        lost = metric.worth(self.value) - metric.worth(value)
        return lost <= fall + SLACK and loss - self.loss <= self.allowed.get("loss", inf) + SLACK

    def measures(self, model: nn.Module) -> dict[str, float]:
        """What the network has on the samples that were held out, for the events."""
        loss, value = evaluate(model, self.held, self.task)
        return {"held_loss": loss, f"held_{self.task.metric.key}": value}
