"""What every loader returns: images and labels, normalised, in memory.

Shapes: N images, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramify.errors import RamifyError

Pixels = NDArray[np.uint8]  # (N, C, H, W), 0 to 255
Labels = NDArray[np.int64]  # (N,), 0 to K - 1


@dataclass(frozen=True)
class RawSplit:
    """Images as a file holds them: pixels (N, C, H, W) uint8 and labels (N,) int64."""

    pixels: Pixels
    labels: Labels


@dataclass(frozen=True)
class Dataset:
    """A classification data set, normalised by the mean and deviation of its own training images.

    Attributes:
        name: what the user asked for; for a folder of images, the folder's own name.
        x_train: training images (N, C, H, W), float32, each channel of mean 0 and deviation 1.
        y_train: training labels (N,), int64, from 0 to K - 1.
        x_test: test images, normalised by the constants of the training images.
        y_test: test labels.
        classes: the K names of the classes, in the order of the labels.
        augment: whether :func:`ramify.data.batches` crops and flips the training images.
        mean: mean of each channel of the training images, in pixels scaled to 0...1.
        std: deviation of each channel, in the same unit; an image ``x`` in 0...1 is prepared for a
            trained model by ``(x - mean) / std``.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    augment: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        channels, height, width = self.x_train.shape[1:]
        return channels, height, width


def from_raw(
    name: str,
    train: RawSplit,
    test: RawSplit,
    classes: tuple[str, ...],
    *,
    augment: bool = False,
    full_scale: int = 255,
) -> Dataset:
    """Check the two splits against each other and normalise them.

    Channel ``c`` of an image becomes ``(x_c / full_scale - mean_c) / std_c`` with the mean and
    standard deviation of that channel over all training images; a channel that never varies is
    only shifted.

    Args:
        name: name of the data set, used in errors.
        train: training images and labels.
        test: test images and labels.
        classes: names of the K classes.
        augment: see :class:`Dataset`.
        full_scale: the pixel value that stands for 1.

    Returns:
        The data set.

    Raises:
        RamifyError: if a split is empty, images and labels differ in number, a label is not one of
            the classes, or the two splits hold images of different shapes.
    """
    _check(name, "training", train, len(classes))
    _check(name, "test", test, len(classes))
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        raise RamifyError(
            f"{name} has training images of shape {train.pixels.shape[1:]} and test images of "
            f"shape {test.pixels.shape[1:]}, which should be the same: bring them to one shape."
        )
    mean, std = _moments(train.pixels, full_scale)
    return Dataset(
        name=name,
        x_train=_normalise(train.pixels, mean, std, full_scale),
        y_train=torch.from_numpy(train.labels.copy()),
        x_test=_normalise(test.pixels, mean, std, full_scale),
        y_test=torch.from_numpy(test.labels.copy()),
        classes=classes,
        augment=augment,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )


def _check(name: str, split: str, raw: RawSplit, classes: int) -> None:
    count = len(raw.pixels)
    if count == 0:
        raise RamifyError(f"{name} has no {split} images: at least one is needed.")
    if count != len(raw.labels):
        raise RamifyError(
            f"{name} has {count} {split} images and {len(raw.labels)} labels, which should be as "
            "many: one of the files is damaged or belongs to another set."
        )
    low, high = int(raw.labels.min()), int(raw.labels.max())
    if low < 0 or high >= classes:
        raise RamifyError(
            f"{name} has {split} labels from {low} to {high}, where 0 to {classes - 1} are "
            "expected: the file belongs to another set, or is damaged."
        )


def _moments(pixels: Pixels, full_scale: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each channel, exact: from counts of whole values, not running sums."""
    counts = np.zeros((pixels.shape[1], 256))
    for start in range(0, len(pixels), 1000):  # bincount makes a copy of eight times the size
        for channel, row in enumerate(counts):
            row += np.bincount(pixels[start : start + 1000, channel].ravel(), minlength=256)
    values = np.arange(256) / full_scale
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.sum(shares * (values - mean[:, None]) ** 2, axis=1))
    return mean, np.where(std > 0, std, 1.0)


def _normalise(
    pixels: Pixels, mean: NDArray[np.float64], std: NDArray[np.float64], full_scale: int
) -> Tensor:
    images = np.ascontiguousarray(pixels, dtype=np.float32)
    for channel in range(images.shape[1]):  # in place: the large sets take 700 MiB once
        images[:, channel] -= full_scale * mean[channel]
        images[:, channel] /= full_scale * std[channel]
    return torch.from_numpy(images)
