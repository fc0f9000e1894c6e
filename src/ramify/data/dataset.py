"""What every loader returns: samples and labels, normalised, in memory.

Shapes: N samples, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ramify.errors import RamifyError

Pixels = NDArray[np.uint8]  # (N, C, H, W), 0 to 255
Labels = NDArray[np.int64]  # (N,), 0 to K - 1
Values = NDArray[np.float32]  # (N, ...), in a unit of their own


@dataclass(frozen=True)
class RawSplit:
    """Images as a file holds them: pixels (N, C, H, W) uint8 and labels (N,) int64."""

    pixels: Pixels
    labels: Labels


@dataclass(frozen=True)
class Dataset:
    """A classification data set, normalised by the mean and deviation of its own training samples.

    The attributes speak of images; features of sounds are images of one channel, and clouds of
    points have the shape (N, 3, P).

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
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) of an image, (3, P) of a cloud of points."""
        return tuple(self.x_train.shape[1:])


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
    _check(name, (train.pixels, train.labels), (test.pixels, test.labels), len(classes))
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


def from_values(
    name: str,
    train: tuple[Values, Labels],
    test: tuple[Values, Labels],
    classes: tuple[str, ...],
    *,
    mean: ArrayLike = (),
    std: ArrayLike = (),
) -> Dataset:
    """Check the two splits of a set that is no set of images, and normalise them as told.

    Args:
        name: name of the data set, used in errors.
        train: training samples (N, ...) and labels (N,).
        test: test samples and labels.
        classes: names of the K classes.
        mean: taken from every sample, one number a place of the last dimension; none leaves the
            samples as they are.
        std: what every sample is then divided by, likewise.

    Returns:
        The data set.

    Raises:
        RamifyError: as :func:`from_raw`.
    """
    _check(name, train, test, len(classes))
    center, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    (x_train, y_train), (x_test, y_test) = (
        ((values - center) / scale if center.size else values, labels)
        for values, labels in (train, test)
    )
    return Dataset(
        name=name,
        x_train=torch.from_numpy(np.ascontiguousarray(x_train)),
        y_train=torch.from_numpy(y_train),
        x_test=torch.from_numpy(np.ascontiguousarray(x_test)),
        y_test=torch.from_numpy(y_test),
        classes=classes,
        mean=tuple(center.tolist()),
        std=tuple(scale.tolist()),
    )


def _check(
    name: str,
    train: tuple[Pixels | Values, Labels],
    test: tuple[Pixels | Values, Labels],
    classes: int,
) -> None:
    _check_split(name, "training", *train, classes)
    _check_split(name, "test", *test, classes)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise RamifyError(
            f"{name} has training images of shape {train[0].shape[1:]} and test images of "
            f"shape {test[0].shape[1:]}, which should be the same: bring them to one shape."
        )


def _check_split(
    name: str, split: str, samples: Pixels | Values, labels: Labels, classes: int
) -> None:
    count = len(samples)
    if count == 0:
        raise RamifyError(f"{name} has no {split} images: at least one is needed.")
    if count != len(labels):
        raise RamifyError(
            f"{name} has {count} {split} images and {len(labels)} labels, which should be as "
            "many: one of the files is damaged or belongs to another set."
        )
    low, high = int(labels.min()), int(labels.max())
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
