"""Networks for the images of CIFAR-10.

Images are contiguous: with channels last, the backward pass of a strided 1×1 convolution of 7 to 20
channels writes past its memory in PyTorch 2.13 on processors with AVX2, and cut networks have such.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cut_networks.task import Batch, Task
from ramify.data import Dataset, batches, load

HELD = 5000  # training images that are never trained on
CHOSEN_BY = 2000  # of them, to choose by
SAMPLES = 256  # of a calibration
PART = 10_000  # training images to tune on
SETTLED = 2000  # training images that norm statistics are recomputed on
TESTED = 500  # images of a batch that is tested


@dataclass(frozen=True)
class Images:
    """CIFAR-10 in three parts: to train on, to choose by, to test; and some to tune on."""

    train: Dataset
    some: Dataset
    held: tuple[Tensor, Tensor]

    @classmethod
    def read(cls) -> Images:
        """The images from the folder that RAMIFY_DATA names."""
        whole = load("cifar10")
        x, y = whole.x_train, whole.y_train
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
        held, rest, some = order[:CHOSEN_BY], order[HELD:], order[HELD : HELD + PART]
        part = lambda rows: replace(whole, x_train=x[rows], y_train=y[rows])  # noqa: E731
        return cls(part(rest), part(some), (x[held], y[held]))

    def calibration(self, seed: int, samples: int = SAMPLES) -> list[Batch]:
        """Some training images as they are."""
        count = len(self.train.y_train)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:samples]
        return [(self.train.x_train[at], self.train.y_train[at]) for at in order.split(64)]


def task(build: Callable[[], nn.Module], size: int = 128, tuning: int = 64) -> Task:
    """CIFAR-10 for a network.

    Args:
        build: makes it.
        size: images of a training batch.
        tuning: images of a batch of tuning.

    Returns:
        The task.
    """
    images = Images.read()
    parts = lambda x, y: [  # noqa: E731
        (some, classes) for some, classes in zip(x.split(TESTED), y.split(TESTED), strict=True)
    ]
    return Task(
        build,
        partial(batches, images.train, size),
        partial(batches, images.some, tuning),
        images.calibration,
        images.calibration(SETTLED, SETTLED),
        parts(*images.held),
        parts(images.train.x_test, images.train.y_test),
    )
