"""A data set: normalised samples and labels in memory, and conversions from other forms.

Shapes: N samples, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ramify.data.labels import (
    IMAGES,
    check_targets,
    checked_labels,
    checked_samples,
    counted_labels,
    shifted,
    task_of,
)
from ramify.data.task import (
    CLASSIFICATION,
    IGNORED,
    OWN,
    REGRESSION,
    SEGMENTATION,
    TEXT,
    Task,
    with_own,
)
from ramify.errors import RamifyError

Pixels = NDArray[np.uint8]  # (N, C, H, W), 0 to 255
Labels = NDArray[np.int64]  # (N,), 0 to K - 1
Samples = Pixels | Tensor
T = TypeVar("T")

MEMBERS = ("x_train", "y_train", "x_test", "y_test")
MOST = 2**24  # classes or tokens
SPLITS = {"train": "training", "test": "test"}  # with the word for each
OUTPUTS = {
    "classification": "classes",
    "regression": "targets",
    "segmentation": "classes",
    "text": "tokens",
}
LISTED = 5  # most labels that a sentence lists


@dataclass(frozen=True)
class RawSplit:
    """Images as a file holds them: pixels (N, C, H, W) uint8 and labels (N,) int64."""

    pixels: Pixels
    labels: Labels


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, ready for training.

    Attributes:
        name: the name that the user gave; for a folder of images, the folder's own name.
        x_train: training samples (N, ...), float32; images are (N, C, H, W), and those that Ramify
            reads have mean 0 and deviation 1 in each channel.
        y_train: training labels in the form that the task needs: for classification (N,), int64,
            from 0 to K - 1.
        x_test: test samples, normalised with the constants of the training samples.
        y_test: test labels.
        classes: the K names of the network's outputs: the classes in the order of their labels, the
            targets of a regression, or the tokens of a vocabulary.
        augment: whether :func:`ramify.data.batches` crops and flips the training images.
        mean: mean of each channel of the training images, in pixels scaled to 0...1.
        std: standard deviation of each channel, in the same unit; to prepare an image ``x`` in
            0...1 for a trained model, compute ``(x - mean) / std``.
        task: what a network is trained for on this data set.
        features: for a table, the names of the F numbers of a sample, such as ``"town=Ulm"``; a
            value ``x`` of a feature is also prepared by ``(x - mean) / std``.
        target: for a table, the mean and standard deviation that normalised the targets of a
            regression: an output ``y`` of a trained network means ``mean + std * y``.

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
    task: Task = CLASSIFICATION
    features: tuple[str, ...] = ()
    target: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, such as (C, H, W) for an image."""
        return tuple(self.x_train.shape[1:])

    def __str__(self) -> str:
        """One line: the task, the outputs, and the samples of both splits."""
        count, words = len(self.classes), OUTPUTS.get(self.task.name, "outputs")
        outputs = f"one {words.removesuffix('s')}" if count == 1 else f"{count:,} {words}"
        if self.features:
            if self.task.name == REGRESSION.name:
                outputs = f"target {self.classes[0]}"
            form = f"{len(self.features):,} feature{'s' * (len(self.features) != 1)}"
        else:
            form = f"samples of shape {self.shape}"
        return (
            f"{self.task.name} of {self.name}: {outputs}, {form}, {len(self.x_train):,} to train "
            f"on and {len(self.x_test):,} to test"
        )

    def unseen(self) -> str | None:
        """A sentence about classes that no training sample has; None if there are none."""
        if self.task.name not in (CLASSIFICATION.name, SEGMENTATION.name):
            return None
        seen = torch.zeros(len(self.classes), dtype=torch.bool)
        seen[counted_labels(self.task, self.y_train)] = True
        absent = (~seen).nonzero().flatten().tolist()
        if not absent:
            return None
        listed = ", ".join(map(str, absent[:LISTED])) + ", ..." * (len(absent) > LISTED)
        what = "the label" if len(absent) == 1 else f"any of the {len(absent):,} labels"
        ignored = ""
        if self.task.name == SEGMENTATION.name:
            ignored = f", and pixels with the label {IGNORED} are ignored"
        return (
            f"no training sample of {self.name} has {what} {listed}, so the network has outputs "
            f"that it never learns; labels count from 0{ignored}"
        )


class TrainTest(Protocol):
    """The attributes that an object needs to be used as a data set.

    It may also have any other attribute of :class:`Dataset`: ``classes`` (by default the labels are
    the names), ``augment`` (False by default), ``mean`` and ``std`` (recorded in an exported
    model), and the name of its ``task`` (by default inferred from the labels). ``loss(model,
    batch)``, one loss a sample, (S,), and ``metric(model, batches)``, one number, replace those of
    the task.

    Attributes:
        x_train: training samples (N, ...), floating-point numbers that the model reads as they are;
            for text integers (N, T).
        y_train: training labels: for classification integers from 0, (N,); for regression
            floating-point numbers (N,) or (N, K); for segmentation integers (N, H, W); for text
            integers (N, T), or no labels if each label is the next token.
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
        full_scale: the pixel value that is scaled to 1.

    Returns:
        The data set.

    Raises:
        RamifyError: if a split is empty, images and labels differ in number, a label is not one of
            the classes, or the two splits hold images of different shapes.
    """
    _check(name, (train.pixels, train.labels), (test.pixels, test.labels))
    for split, labels in zip(SPLITS.values(), (train.labels, test.labels), strict=True):
        _check_range(name, split, labels, len(classes))
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


def as_dataset(source: Any, name: str, task: str | None = None) -> Dataset:
    """Convert a user's object to a data set; its samples are not normalised.

    Args:
        source: arrays or tensors, under the names of :class:`TrainTest`.
        name: what to call it.
        task: the name of its task; None to take it from the object or infer it from the labels.

    Returns:
        The data set, with float32 samples and int64 labels, or in the types that the task needs. A
        `Dataset` for this task is returned unchanged.

    Raises:
        RamifyError: if an attribute is missing, samples are not floating-point numbers, labels do
            not fit the task, or for the reasons of :func:`from_raw`.

    Example:
        >>> from types import SimpleNamespace
        >>> x, y = np.zeros((4, 2)), np.array([0, 1, 1, 0])
        >>> as_dataset(SimpleNamespace(x_train=x, y_train=y, x_test=x, y_test=y), "zeros").classes
        ('0', '1')
        >>> object_ = SimpleNamespace(x_train=x, y_train=y / 2, x_test=x, y_test=y / 2)
        >>> as_dataset(object_, "halves").task.name
        'regression'
    """
    # A data set of another task is read anew, by its arrays.
    if isinstance(source, Dataset):
        if task in (None, source.task.name):
            return source
        if source.task.own is not None or source.task.metric.measure is not None:
            raise RamifyError(
                f"{name} brings a loss or a metric of its own, which are for its own task: leave "
                "the task out."
            )
        kept = (*MEMBERS, "augment", "mean", "std")
        source = SimpleNamespace(**{key: getattr(source, key) for key in kept})
    # The task: by its name, by the object, or by the labels. Text may come without labels, which
    # are then the next tokens.
    found = _tensors(source, name)
    kind = task_of(source, found["x_train"], found.get("y_train"), task)
    named = bool(task or getattr(source, "task", None))
    if "y_train" not in found:
        if kind != TEXT:
            raise RamifyError(_lacks(source, name, ["y_train", "y_test"]))
        for split in SPLITS:
            found[f"x_{split}"], found[f"y_{split}"] = shifted(name, found[f"x_{split}"])
    # Samples and labels in the types of the task, and their values checked.
    x, y = dict[str, Tensor](), dict[str, Tensor]()
    for split in SPLITS:
        x[split] = checked_samples(name, kind, found[f"x_{split}"], named=named)
        y[split] = checked_labels(name, kind, found[f"y_{split}"], x[split], named=named)
    classes = _outputs(source, name, kind, x, y)
    _check(name, (x["train"], y["train"]), (x["test"], y["test"]))
    for split, word in SPLITS.items():
        if kind == REGRESSION:
            check_targets(name, word, y[split])
        elif kind != OWN:
            _check_range(name, word, counted_labels(kind, y[split]), len(classes))
        if strange := int((~x[split].isfinite()).flatten(1).any(1).sum()):
            raise RamifyError(
                f"{name} has {strange} {word} samples with numbers that are not finite (nan or "
                "infinite): correct them or leave them out."
            )
    # Random crops and flips of an image keep its class or its number, but not a label per pixel.
    augment = bool(getattr(source, "augment", False))
    if augment and (kind not in (CLASSIFICATION, REGRESSION) or x["train"].ndim != IMAGES):
        raise RamifyError(
            f"{name} asks for augment, which crops and flips images (N, C, H, W) without their "
            f"labels, and holds samples of shape {tuple(x['train'].shape)} for a {kind.name}: "
            "leave it out, and augment in your own batches from Python."
        )
    return Dataset(
        name=name,
        x_train=x["train"],
        y_train=y["train"],
        x_test=x["test"],
        y_test=y["test"],
        classes=classes,
        augment=augment,
        mean=_several(source, name, "mean", (), float),
        std=_several(source, name, "std", (), float),
        task=with_own(
            kind,
            getattr(source, "loss", None),
            getattr(source, "metric", None),
            f"the data set {name}",
        ),
    )


def _tensors(source: Any, name: str) -> dict[str, Tensor]:
    """The attributes of an object as tensors; labels may be absent if samples are tokens."""
    missing = [key for key in MEMBERS if not hasattr(source, key)]
    found = {
        key: _tensor(getattr(source, key), f"{key} of the data set {name}")
        for key in MEMBERS
        if key not in missing
    }
    tokens = "x_train" in found and not found["x_train"].is_floating_point()
    if missing and not (tokens and missing == ["y_train", "y_test"]):
        raise RamifyError(_lacks(source, name, missing))
    return found


def _tensor(value: Any, where: str) -> Tensor:
    """An array or a sequence of numbers as a tensor."""
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        array = isinstance(value, np.ndarray)
        what = f"an array of {value.dtype}" if array else f"a {type(value).__name__}"
        advice = "give an array or a tensor of numbers"
        if where.startswith("y_"):
            advice += "; for classes whole numbers from 0, whose names `classes` may list"
        raise RamifyError(
            f"{where} is {what}, which is not an array or a tensor of numbers: {advice}."
        ) from error


def _lacks(source: Any, name: str, missing: list[str]) -> str:
    """The sentence that says which attributes of a data set an object lacks."""
    return (
        f"the data set {name} is a {type(source).__name__} without {', '.join(missing)}: give an "
        f"object with {', '.join(MEMBERS)}, each an array or a tensor."
    )


def _outputs(
    source: Any, name: str, task: Task, x: Mapping[str, Tensor], y: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """The names of the network's outputs: those of the object, or numbers."""
    names: Iterable[str] = ("output",)
    if task == REGRESSION:
        width = y["train"].shape[1] if y["train"].ndim == 2 else 1
        names = ("target",) if width == 1 else (f"target {k}" for k in range(width))
    elif task != OWN:
        labels = [counted_labels(task, part).flatten() for part in y.values()]
        labels += [part.flatten() for part in x.values()] if task == TEXT else []
        count = 1 + max((int(part.max()) for part in labels if len(part)), default=0)
        if count > MOST:
            raise RamifyError(
                f"{name} has a label or token {count - 1}, where {MOST - 1} is the most: number "
                "them from 0 without gaps."
            )
        if not hasattr(source, "classes") and task != TEXT:
            most = len(x["train"]) if task == CLASSIFICATION else count
            check_count(name, count, most)
        names = map(str, range(count))
    found = _several(source, name, "classes", names, str)
    if task == REGRESSION and y["train"].ndim == 2 and len(found) != y["train"].shape[1]:
        raise RamifyError(
            f"{name} has {len(found)} names of targets for {y['train'].shape[1]} targets: give as "
            "many, or leave classes out."
        )
    return found


def _several(
    source: Any, name: str, member: str, default: Iterable[T], kind: Callable[[Any], T]
) -> tuple[T, ...]:
    """An attribute that is a sequence, or its default if it is absent."""
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
    """Check that the number of classes is plausible for labels without names.

    Args:
        name: name of the data set, for errors.
        classes: the largest label plus one.
        samples: number of training samples.

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
    name: str, train: tuple[Samples, Labels | Tensor], test: tuple[Samples, Labels | Tensor]
) -> None:
    for split, (samples, labels) in zip(SPLITS.values(), (train, test), strict=True):
        if len(samples) == 0:
            raise RamifyError(f"{name} has no {split} samples: at least one is needed.")
        if len(samples) != len(labels):
            raise RamifyError(
                f"{name} has {len(samples)} {split} samples and {len(labels)} labels, which should "
                "be as many: they belong to different sets, or are damaged."
            )
    if train[0].shape[1:] != test[0].shape[1:]:
        raise RamifyError(
            f"{name} has training samples of shape {tuple(train[0].shape[1:])} and test samples of "
            f"shape {tuple(test[0].shape[1:])}, which should be the same: bring them to one shape."
        )


def _check_range(name: str, split: str, labels: Labels | Tensor, classes: int) -> None:
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= classes:
        raise RamifyError(
            f"{name} has {split} labels from {low} to {high}, where 0 to {classes - 1} are "
            "expected: they belong to another set, or are damaged."
        )


def _moments(pixels: Pixels, full_scale: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of each channel, exact because computed from counts of pixel values."""
    counts = np.zeros((pixels.shape[1], 256))
    for start in range(0, len(pixels), 1000):  # bincount makes a copy eight times as large
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
    for channel in range(images.shape[1]):  # in place, because a large set takes 700 MiB
        images[:, channel] -= full_scale * mean[channel]
        images[:, channel] /= full_scale * std[channel]
    return torch.from_numpy(images)
