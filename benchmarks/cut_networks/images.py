"""Networks for the images of CIFAR-10.

Images are contiguous: in channels-last layout, the backward pass of a strided 1×1 convolution with
7 to 20 channels, as in cut networks, writes out of bounds in PyTorch 2.13 on CPUs with AVX2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cut_networks.task import Batch, Task
from ramify.data import Dataset, batches, load

HELD = 5000  # training images that are held out
CHOSEN_BY = 2000  # of them, for validation
SAMPLES = 256  # calibration images
PART = 10_000  # training images for fine-tuning
SETTLED = 2000  # training images for recomputing norm statistics
TESTED = 500  # batch size for testing


@dataclass(frozen=True)
class Images:
    """CIFAR-10 split for training, validation and test, with a part for fine-tuning."""

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
        """Some training images without augmentation."""
        count = len(self.train.y_train)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:samples]
        return [(self.train.x_train[at], self.train.y_train[at]) for at in order.split(64)]


def task(build: Callable[[], nn.Module], size: int = 128, tuning: int = 64) -> Task:
    """CIFAR-10 for a network.

    Args:
        build: builds it.
        size: batch size in training.
        tuning: batch size in fine-tuning.

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
