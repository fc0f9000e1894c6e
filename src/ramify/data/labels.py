"""Labels of a user's data object: which task they are for, and whether they fit it.

Shapes: N samples, K classes or targets, T places of a sequence, H rows, W columns.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ramify.data.task import (
    CLASSIFICATION,
    IGNORED,
    OWN,
    REGRESSION,
    SEGMENTATION,
    TASKS,
    TEXT,
    Task,
    task_named,
)
from ramify.errors import RamifyError

IMAGES, PIXELS = 4, 3  # dimensions of samples that are images, and of labels of their pixels


def task_of(source: Any, samples: Tensor, labels: Tensor | None, named: str | None) -> Task:
    """The task of a data object.

    Args:
        source: the object, which may name its task in the attribute ``task``.
        samples: its training samples (N, ...).
        labels: its training labels; None if it has none.
        named: the task that the user named, which has priority.

    Returns:
        The named task, or the task that the labels fit; `OWN` if they fit no task and the object
        has a loss of its own.

    Raises:
        RamifyError: the name is unknown.
    """
    own = getattr(source, "task", None)
    name = named or getattr(own, "name", own)
    if name == OWN.name and hasattr(source, "loss"):
        return OWN
    if name is not None:
        return task_named(name)
    whole = not samples.is_floating_point()
    if labels is None or (whole and labels.shape == samples.shape and labels.ndim == 2):
        return TEXT
    if labels.is_floating_point():
        guess, fits = REGRESSION, labels.ndim in (1, 2)
    elif labels.ndim == PIXELS:
        guess, fits = SEGMENTATION, samples.ndim == IMAGES
    else:
        guess, fits = CLASSIFICATION, labels.ndim == 1
    return OWN if hasattr(source, "loss") and not fits else guess


def shifted(name: str, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Turn sequences into samples and labels: each label is the next token.

    Args:
        name: name of the data set, for errors.
        samples: (N, T).

    Returns:
        Both (N, T - 1).

    Raises:
        RamifyError: the samples are not sequences of tokens.
    """
    _check_tokens(name, samples)
    if samples.shape[1] < 2:
        raise RamifyError(
            f"the data set {name} has sequences of one token and no labels, and the label of a "
            "token is the next one: give longer sequences, or y_train and y_test."
        )
    return samples[:, :-1], samples[:, 1:]


def checked_samples(name: str, task: Task, samples: Tensor, *, named: bool) -> Tensor:
    """Samples in the type that a network reads.

    Args:
        name: name of the data set, for errors.
        task: the task of the data set.
        samples: (N, ...).
        named: whether the task was named rather than inferred.

    Returns:
        float32, or int64 if they are tokens.

    Raises:
        RamifyError: the samples have another type.
    """
    if task == TEXT:
        _check_tokens(name, samples)
        return samples.long()
    tokens = named and not samples.is_floating_point() and samples.element_size() > 1
    if samples.ndim < 2 or not (samples.is_floating_point() or tokens):
        raise RamifyError(
            f"the data set {name} has samples of {samples.dtype} and shape "
            f"{tuple(samples.shape)}, where floating-point numbers of shape (N, ...) are "
            "expected: bring them into the form that the model takes."
        )
    return samples.long() if tokens else samples.float()


def checked_labels(
    name: str, task: Task, labels: Tensor, samples: Tensor, *, named: bool
) -> Tensor:
    """Labels in the type that the loss of the task needs.

    Args:
        name: name of the data set, for errors.
        task: the task of the data set.
        labels: the labels of the samples.
        samples: (N, ...).
        named: whether the task was named; then integers are also accepted as regression targets.

    Returns:
        float32 for a regression, int64 for the other tasks; unchanged if only the user's own loss
        understands them.

    Raises:
        RamifyError: the labels do not fit the task.
    """
    floating, shape = labels.is_floating_point(), tuple(labels.shape)
    fits = {
        CLASSIFICATION.name: not floating and labels.ndim == 1,
        REGRESSION.name: (floating or named) and labels.ndim in (1, 2),
        SEGMENTATION.name: not floating and labels.ndim == PIXELS and samples.ndim == IMAGES,
        TEXT.name: not floating and labels.shape == samples.shape,
    }
    if not fits.get(task.name, True):
        raise RamifyError(
            f"the data set {name} has labels of {labels.dtype} and shape {shape} for samples of "
            f"shape {tuple(samples.shape)}, where the task {task.name} takes {task.labels}: correct"
            f" them, or name another task ({', '.join(TASKS)})."
        )
    if task.name == OWN.name:
        return labels
    return labels.float() if task.name == REGRESSION.name else labels.long()


def check_targets(name: str, split: str, targets: Tensor) -> None:
    """Check that the targets of a regression are finite and vary.

    Args:
        name: name of the data set, for errors.
        split: the word for their split, for errors.
        targets: (N,) or (N, K).

    Raises:
        RamifyError: a target is not finite, or is the same for all samples.
    """
    if strange := int((~targets.isfinite()).reshape(len(targets), -1).any(1).sum()):
        raise RamifyError(
            f"{name} has {strange} {split} samples whose target is not finite (nan or infinite): "
            "correct them or leave them out."
        )
    if bool((targets == targets[:1]).all(0).any()):
        raise RamifyError(
            f"{name} has {split} samples that all have the same target, so there is nothing to "
            "predict: give more samples, or another target."
        )


def counted_labels(task: Task, labels: Tensor) -> Tensor:
    """The labels that name a class, without the ignored ones."""
    return labels if task == CLASSIFICATION else labels[labels != IGNORED]


def _check_tokens(name: str, samples: Tensor) -> None:
    if samples.is_floating_point() or samples.ndim != 2 or bool((samples < 0).any()):
        raise RamifyError(
            f"the data set {name} has samples of {samples.dtype} and shape "
            f"{tuple(samples.shape)}, where the task text takes numbers of tokens from 0, whole, "
            "of shape (N, T): give those, or name another task."
        )
