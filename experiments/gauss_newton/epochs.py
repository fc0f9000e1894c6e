"""The training batches of successive epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from ramify.data import Dataset, batches


@dataclass(frozen=True)
class Epochs:
    """Batches of a data set; every walk through them is a further epoch.

    Attributes:
        dataset: where they come from.
        batch: images a step.
        seed: of their order and augmentation.
        done: the epochs begun so far.
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
