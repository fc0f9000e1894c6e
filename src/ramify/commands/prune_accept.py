"""How much worse a cut network may be than the full one, on held-out samples."""

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
"""The held-out part of the training data: its share, and its smallest and largest size."""
SLACK = 1e-6  # tolerance for rounding

Batches = list[tuple[Tensor, Tensor]]


def checked_allowance(accept: Mapping[str, float], metric: Metric = ACCURACY) -> None:
    """Check the names and signs of an allowance.

    Args:
        accept: the key of the metric, such as ``accuracy``, and its allowed change (in points if it
            is a share): 0 or less if higher is better, otherwise 0 or more; and ``loss``, the
            allowed rise of the mean loss.
        metric: The metric of the task.

    Raises:
        RamifyError: A name is unknown, or a sign is wrong.
    """
    known = {one.key: one for one in (metric, LOSS)}
    for name, change in accept.items():
        if name not in known:
            raise RamifyError(
                f"accept must be {' or '.join(known)}, but got {name!r}"
                f"{did_you_mean(name, known)}: give {_example(metric)}loss="
                "0.05 for a loss that is 0.05 higher."
            )
        if known[name].worth(change) > 0:
            raise RamifyError(
                f"accept allows {name}={change:g}, and the full network is not to be surpassed: "
                f"give {name}={-change:g}."
            )


def allows(allowed: float, metric: Metric, before: float, after: float) -> bool:
    """Whether a measure has become no worse than is allowed, up to rounding.

    Args:
        allowed: The allowed change, as for :func:`checked_allowance`.
        metric: The metric.
        before: Its value for the full network; accuracy in [0, 1].
        after: Its value for the small one.

    Returns:
        Whether it is allowed.
    """
    return metric.worth(after - before) >= metric.worth(allowed) / metric.scale - SLACK


def _example(metric: Metric) -> str:
    """An example of an allowance for a metric, in words; empty if the loss is the metric."""
    if metric == LOSS:
        return ""
    if metric.percent:
        return f"{metric.key}=-1.0 for one point of {metric.words} less, or "
    way, change = ("less", "-0.01") if metric.higher else ("more", "0.01")
    return f"{metric.key}={change} for 0.01 of {metric.words} {way}, or "


def held_out(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Split the training data into a part to train on and a held-out part that judges the cuts.

    Args:
        dataset: The data of the run.
        seed: The seed of the job.

    Returns:
        The data without the held-out part, and the data with only that part as training data.

    Raises:
        RamifyError: There are too few samples.
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
    """Decides whether a cut network is good enough, compared with the full one.

    Attributes:
        allowed: The allowance, in the form of :func:`checked_allowance`.
        held: The held-out samples, in batches.
        value: The metric of the full network on them; accuracy in [0, 1].
        loss: The loss of the full network on them.
        task: The task of the networks.
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
        """An acceptance test that compares with this network."""
        loss, value = evaluate(full, held, task)
        return cls(allowed, held, value, loss, task)

    def __call__(self, model: nn.Module) -> bool:
        """Whether the network loses no more than is allowed."""
        loss, value = evaluate(model, self.held, self.task)
        measured = ((self.task.metric, self.value, value), (LOSS, self.loss, loss))
        return all(
            allows(self.allowed[one.key], one, before, after)
            for one, before, after in measured
            if one.key in self.allowed
        )

    def measures(self, model: nn.Module) -> dict[str, float]:
        """The measures of a network on the held-out samples, for the events."""
        loss, value = evaluate(model, self.held, self.task)
        return {"held_loss": loss, f"held_{self.task.metric.key}": value}
