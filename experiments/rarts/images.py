"""Images for a search: a subset of a data set, its two halves, and batches of both."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ramify.data import Dataset, batches, load
from ramify.relax import halves
from ramify.train.epoch import evaluate

Batch = tuple[Tensor, Tensor]
Model = TypeVar("Model", bound=nn.Module)

BATCH = 500  # for evaluation


def some(name: str, samples: int, seed: int) -> Dataset:
    """A number of training images of a data set, drawn with a seed, and all of its test images."""
    whole = _whole(name)
    order = torch.randperm(len(whole.y_train), generator=torch.Generator().manual_seed(seed))
    return _part(whole, order[:samples])


def first(data: Dataset, samples: int) -> Dataset:
    """The first training images, and all test images."""
    return _part(data, torch.arange(min(samples, len(data.y_train))))


def halved(data: Dataset, seed: int) -> list[Dataset]:
    """The two halves of the training images of a search, D_a and D_p."""
    return [_part(data, index) for index in halves(len(data.y_train), seed)]


def pairs(
    both: Sequence[Dataset], size: int, seed: int, epoch: int, device: str
) -> Iterator[tuple[Batch, Batch]]:
    """One pass over both halves, with one batch of each at a time."""
    ways = (batches(half, size, seed, epoch) for half in both)
    for one, other in zip(*ways, strict=False):
        yield placed(one, device), placed(other, device)


def placed(batch: Batch, device: str) -> Batch:
    """A batch on the device, channels last."""
    images, labels = batch
    return images.to(device, memory_format=torch.channels_last), labels.to(device)


def moved(model: Model, device: str) -> Model:
    """A network on the device, channels last."""
    last: Model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return last


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, device: str) -> float:
    """The share of images that a network classifies correctly."""
    parts = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    return evaluate(model, (placed(part, device) for part in parts))[1]


@functools.cache
def _whole(name: str) -> Dataset:
    """A data set, read only once."""
    return load(name)


def _part(data: Dataset, index: Tensor) -> Dataset:
    return replace(data, x_train=data.x_train[index], y_train=data.y_train[index])
