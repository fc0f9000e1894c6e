"""A data set: samples and labels, normalised, in memory; and how other forms become one.

Shapes: N samples, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramify.errors import RamifyError

Pixels = NDArray[np.uint8]  # (N, C, H, W), 0 to 255
Labels = NDArray[np.int64]  # (N,), 0 to K - 1
Samples = Pixels | Tensor
T = TypeVar("T")

MEMBERS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class RawSplit:
    """Images as a file holds them: pixels (N, C, H, W) uint8 and labels (N,) int64."""

    pixels: Pixels
    labels: Labels


@dataclass(frozen=True)
class Dataset:
    """A classification data set in memory, ready for training.

    Attributes:
        name: what the user asked for; for a folder of images, the folder's own name.
        x_train: training samples (N, ...), float32; images are (N, C, H, W), and those that Ramify
            reads have mean 0 and deviation 1 in each channel.
        y_train: training labels (N,), int64, from 0 to K - 1.
        x_test: test samples, normalised by the constants of the training samples.
        y_test: test labels.
        classes: the K names of the classes, in the order of the labels.
        augment: whether :func:`ramify.data.batches` crops and flips the training images.
        mean: mean of each channel of the training images, in pixels scaled to 0...1.
        std: deviation of each channel, in the same unit; an image ``x`` in 0...1 is prepared for a
            trained model by ``(x - mean) / std``.

    Example:
        >>> x, y = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
        >>> Dataset("noise", x, y, x, y, classes=("a", "b", "c")).shape
        (1, 8, 8)
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
        """Shape of one sample, such as (C, H, W) of an image."""
        return tuple(self.x_train.shape[1:])


class TrainTest(Protocol):
    """What an object needs to be taken as a data set.

    It may also have any other attribute of :class:`Dataset`: ``classes`` (else the labels are the
    names), ``augment`` (else False), ``mean`` and ``std`` (for the note in an exported model).

    Attributes:
        x_train: training samples (N, ...), floating-point numbers in the form the model takes.
        y_train: training labels (N,), whole numbers from 0.
        x_test: test samples, of the same shape and in the same unit.
        y_test: test labels.

    Example:
        >>> class Blobs:
        ...     x_train, y_train = torch.randn(20, 2), torch.arange(20) % 2
        ...     x_test, y_test = torch.randn(4, 2), torch.arange(4) % 2
        >>> as_dataset(Blobs(), "blobs").classes
        ('0', '1')
    """

    x_train: Any
    y_train: Any
    x_test: Any
    y_test: Any


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


def as_dataset(source: TrainTest, name: str) -> Dataset:
    """Take an object of the user's as a data set; its samples stay as they are.

    Args:
        source: arrays or tensors, under the names of :class:`TrainTest`.
        name: what to call it.

    Returns:
        The data set, samples float32 and labels int64; what already is one as it is.

    Raises:
        RamifyError: if a member is missing, samples are no floating-point numbers or labels no
            whole numbers, or as :func:`from_raw`.

    Example:
        >>> from types import SimpleNamespace
        >>> x, y = np.zeros((4, 2)), np.array([0, 1, 1, 0])
        >>> as_dataset(SimpleNamespace(x_train=x, y_train=y, x_test=x, y_test=y), "zeros").classes
        ('0', '1')
    """
    if isinstance(source, Dataset):
        return source
    if missing := [key for key in MEMBERS if not hasattr(source, key)]:
        raise RamifyError(
            f"the data set {name} is a {type(source).__name__} without {', '.join(missing)}: give "
            f"an object with {', '.join(MEMBERS)}."
        )
    try:
        x_train, y_train, x_test, y_test = (torch.as_tensor(getattr(source, k)) for k in MEMBERS)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RamifyError(
            f"the data set {name} does not hold arrays or tensors of numbers ({error})."
        ) from error
    for samples in (x_train, x_test):
        if not samples.is_floating_point() or samples.ndim < 2:
            raise RamifyError(
                f"the data set {name} has samples of {samples.dtype} and shape "
                f"{tuple(samples.shape)}, where floating-point numbers of shape (N, ...) are "
                "expected: bring them into the form that the model takes."
            )
    for labels in (y_train, y_test):
        if labels.is_floating_point() or labels.ndim != 1:
            raise RamifyError(
                f"the data set {name} has labels of {labels.dtype} and shape "
                f"{tuple(labels.shape)}, where whole numbers of shape (N,) are expected."
            )
    count = 1 + max((int(labels.max()) for labels in (y_train, y_test) if len(labels)), default=0)
    if not hasattr(source, "classes"):
        check_count(name, count, len(x_train))
    classes = _several(source, name, "classes", map(str, range(count)), str)
    _check(name, (x_train, y_train), (x_test, y_test), len(classes))
    for split, samples in (("training", x_train), ("test", x_test)):
        if strange := int((~samples.isfinite()).flatten(1).any(1).sum()):
            raise RamifyError(
                f"{name} has {strange} {split} samples with numbers that are not finite (nan or "
                "infinite): mend them or leave them out."
            )
    return Dataset(
        name=name,
        x_train=x_train.float(),
        y_train=y_train.long(),
        x_test=x_test.float(),
        y_test=y_test.long(),
        classes=classes,
        augment=bool(getattr(source, "augment", False)),
        mean=_several(source, name, "mean", (), float),
        std=_several(source, name, "std", (), float),
    )


def _several(
    source: Any, name: str, member: str, default: Iterable[T], kind: Callable[[Any], T]
) -> tuple[T, ...]:
    """A member that is a sequence, or its default where it is absent."""
    found = getattr(source, member, default)
    try:
        if isinstance(found, str):
            raise TypeError
        return tuple(kind(one) for one in found)
    except (TypeError, ValueError):
        words = "names" if kind is str else "numbers"
        raise RamifyError(
            f"the data set {name} has {member} {found!r}, where a sequence of {words} is "
            "expected: give a list, or leave it out."
        ) from None


def check_count(name: str, classes: int, samples: int) -> None:
    """Make sure that labels without names are as those of classes are.

    Args:
        name: name of the data set, for errors.
        classes: the largest label and one.
        samples: how many training samples there are.

    Raises:
        RamifyError: there would be more classes than samples, or only one.
    """
    if classes < 2 and samples:
        raise RamifyError(f"every label of {name} is 0, where at least two classes are needed.")
    if classes > samples > 0:
        raise RamifyError(
            f"{name} has a label {classes - 1} but only {samples} training samples: number the "
            "classes from 0 without gaps, in the training and the test labels alike."
        )


def _check(
    name: str,
    train: tuple[Samples, Labels | Tensor],
    test: tuple[Samples, Labels | Tensor],
    classes: int,
) -> None:
    _check_split(name, "training", *train, classes)
    _check_split(name, "test", *test, classes)
    if train[0].shape[1:] != test[0].shape[1:]:
        raise RamifyError(
            f"{name} has training images of shape {tuple(train[0].shape[1:])} and test images of "
            f"shape {tuple(test[0].shape[1:])}, which should be the same: bring them to one shape."
        )


def _check_split(
    name: str, split: str, samples: Samples, labels: Labels | Tensor, classes: int
) -> None:
    count = len(samples)
    if count == 0:
        raise RamifyError(f"{name} has no {split} images: at least one is needed.")
    if count != len(labels):
        raise RamifyError(
            f"{name} has {count} {split} images and {len(labels)} labels, which should be as "
            "many: they belong to different sets, or are damaged."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise RamifyError(
            f"{name} has {split} labels from {low} to {high}, where 0 to {classes - 1} are "
            "expected: they belong to another set, or are damaged."
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
