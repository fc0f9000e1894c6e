"""The tasks that a network can be trained for: labels, loss per sample, and metric.

Shapes: S samples in a batch, K outputs (classes, targets, or tokens of a vocabulary), T positions
in a sequence, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ramify.data.metric import ACCURACY, IOU, LOSS, PERPLEXITY, R2, Metric
from ramify.errors import RamifyError, did_you_mean

IGNORED = -100
"""The label of a pixel or token that counts neither in the loss nor in the metric."""

Batch = tuple[Tensor, Tensor]
Losses = Callable[[Tensor, Tensor, float], Tensor]
Sums = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """What a network is trained for.

    Attributes:
        name: one of `TASKS`, or ``own``.
        labels: description of the labels.
        outputs: description of the network's output for a sample.
        metric: the metric that is reported.
        losses: outputs, labels, label smoothing -> one loss a sample, (S,).
        sums: outputs, labels -> the sums of a batch that the metric is computed from.
        total: these sums over all batches -> the metric.
        shape: labels and K -> the expected shape of the outputs.
        own: the user's own ``loss(model, batch)``, which replaces ``losses``.

    Example:
        >>> batch = torch.zeros(2, 3), torch.tensor([1.0, 2.0])
        >>> REGRESSION.loss(nn.Linear(3, 1, bias=False), batch)
        tensor([1., 4.], grad_fn=<MeanBackward1>)
    """

    name: str
    labels: str
    outputs: str
    metric: Metric
    losses: Losses
    sums: Sums
    total: Callable[[Tensor], float]
    shape: Callable[[Tensor, int], tuple[int, ...]]
    own: Callable[[Any, Any], Tensor] | None = None

    @property
    def smooths(self) -> bool:
        """Whether the loss is a cross-entropy, whose labels can be smoothed."""
        return self.own is None and self.name != "regression"

    @property
    def softmax_last(self) -> bool:
        """Whether the loss takes a softmax over the last dimension of the outputs."""
        return self.own is None and self.name in ("classification", "text")

    def loss(self, model: nn.Module, batch: Any, label_smoothing: float = 0.0) -> Tensor:
        """The loss of a batch, one number a sample.

        Args:
            model: the network.
            batch: samples and labels.
            label_smoothing: the share of each label that is spread evenly over all classes.

        Returns:
            (S,).
        """
        if self.own is not None:
            return self.own(model, batch)
        inputs, labels = batch
        return self.losses(outputs_of(model(inputs)), labels, label_smoothing)

    def measured(self, model: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
        """Mean loss and metric of a network, which the caller has put into evaluation mode.

        Args:
            model: the network.
            batches: samples and labels; iterated over twice if the metric is the user's own.

        Returns:
            The mean of the losses over samples, and the metric.

        Raises:
            RamifyError: the user's own metric fails, or does not return a finite number.
        """
        loss, samples, sums = 0.0, 0, torch.zeros((), dtype=torch.int64)
        counts = self.metric.measure is None and self.metric != LOSS
        for inputs, labels in batches:
            outputs: Any = None if self.own and not counts else outputs_of(model(inputs))
            if self.own is not None:
                losses = self.own(model, (inputs, labels))
            else:
                losses = self.losses(outputs, labels, 0.0)
            loss += float(losses.sum())
            samples += len(labels)
            if counts:
                sums = sums + self.sums(outputs, labels).cpu()
        mean = loss / samples
        if counts:
            return mean, self.total(sums)
        return mean, mean if self.metric == LOSS else _number(self.metric, model, batches)


def outputs_of(found: Any) -> Any:
    """The output of a network, or its ``.logits`` if it has that attribute."""
    return getattr(found, "logits", found)


def task_named(name: str) -> Task:
    """The task with this name.

    Args:
        name: such as ``"regression"``.

    Returns:
        The task.

    Raises:
        RamifyError: there is no task of that name.

    Example:
        >>> task_named("segmentation").metric.words
        'mean IoU'
    """
    if name not in TASKS:
        raise RamifyError(
            f"there is no task {name!r}{did_you_mean(str(name), TASKS)}; choose one of "
            f"{', '.join(TASKS)}."
        )
    return TASKS[name]


def with_own(task: Task, loss: Any, metric: Any, where: str) -> Task:
    """A task with its loss and metric replaced by those of the user's data object.

    Args:
        task: the task.
        loss: ``loss(model, batch)`` -> (S,), or None.
        metric: ``metric(model, batches)`` -> a number, the higher the better; or a `Metric` with
            such a ``measure``; or None.
        where: where they come from, for errors.

    Returns:
        The task.

    Raises:
        RamifyError: loss or metric has another form.
    """
    if loss is not None and not callable(loss):
        raise RamifyError(
            f"{where} has a loss that is a {type(loss).__name__}: give a function loss(model, "
            "batch) that returns one loss a sample, a tensor of shape (S,)."
        )
    if loss is not None:
        task = replace(task, own=loss)
    if metric is None:
        return task
    if not isinstance(metric, Metric) and callable(metric):
        key = getattr(metric, "__name__", type(metric).__name__)
        metric = Metric(key, key.replace("_", " "), measure=metric)
    if not isinstance(metric, Metric) or metric.measure is None or not metric.key.isidentifier():
        raise RamifyError(
            f"{where} has a metric {metric!r}: give a named function metric(model, batches) that "
            'returns a number, or ramify.data.Metric("mae", "mean absolute error", higher=False, '
            "measure=function)."
        )
    if metric.key == LOSS.key:
        raise RamifyError(
            f"{where} has a metric of the name loss, which is that of the loss: give it another."
        )
    return replace(task, metric=metric)


def _number(metric: Metric, model: nn.Module, batches: Iterable[Batch]) -> float:
    """The value of the user's own metric."""
    assert metric.measure is not None
    try:
        found = metric.measure(model, batches)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RamifyError(
            f"the metric {metric.key} failed ({type(error).__name__}: {error}): it takes the model "
            "and the batches, each of which is samples and labels."
        ) from error
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise RamifyError(
            f"the metric {metric.key} gives {found!r}, where a finite number is expected: return "
            "one from metric(model, batches)."
        )
    return value


# ---------------------------------------------------------------------------- classification


def _class_losses(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)


def _hits(scores: Tensor, labels: Tensor) -> Tensor:
    """(2,): number of correct predictions, number of samples."""
    return torch.tensor([int((scores.argmax(1) == labels).sum()), len(labels)])


def _share(sums: Tensor) -> float:
    right, count = sums.tolist()
    return right / count


# ---------------------------------------------------------------------------- regression


def _square_losses(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean squared error of the targets of each sample."""
    found, wanted = _columns(outputs, targets)
    return (found - wanted).square().mean(1)


def _squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """(4, K): samples, sum and sum of squares of each target, sum of its squared errors."""
    found, wanted = (part.double() for part in _columns(outputs, targets))
    rows = (torch.ones_like(wanted), wanted, wanted.square(), (found - wanted).square())
    return torch.stack([row.sum(0) for row in rows])


def _explained(sums: Tensor) -> float:
    """The share of the variance that is explained (R²), averaged over targets."""
    count, total, squares, errors = sums
    variance = squares - total.square() / count
    explained = 1 - errors / variance.clamp_min(torch.finfo(torch.float64).tiny)
    # A target that does not vary among these samples has no variance to explain.
    return float(torch.where(variance > 1e-12 * squares, explained, 0.0).mean())


def _columns(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (S, K)."""
    found, wanted = outputs.flatten(1), targets.reshape(len(targets), -1)
    if found.shape != wanted.shape:
        raise RamifyError(
            f"the model gives {tuple(outputs.shape)} for targets of shape {tuple(targets.shape)}: "
            "give it one output for each target."
        )
    return found, wanted


# ---------------------------------------------------------------------------- pixels and tokens


def _pixel_losses(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy over the labelled positions of each sample; scores (S, K, ...)."""
    each = F.cross_entropy(
        scores, labels, ignore_index=IGNORED, reduction="none", label_smoothing=smoothing
    )
    counted = (labels != IGNORED).flatten(1).sum(1)
    return each.flatten(1).sum(1) / counted.clamp_min(1)


def _overlaps(scores: Tensor, labels: Tensor) -> Tensor:
    """(2, K): for each class the pixels in the intersection and in the union."""
    classes, counted = scores.shape[1], labels != IGNORED
    found, wanted = scores.argmax(1)[counted], labels[counted]
    both = torch.bincount(wanted[found == wanted], minlength=classes)
    every = [torch.bincount(part, minlength=classes) for part in (found, wanted)]
    return torch.stack([both, sum(every) - both])


def _mean_overlap(sums: Tensor) -> float:
    """Intersection over union, averaged over the classes that occur."""
    both, either = sums.double()
    seen = either > 0
    return float((both[seen] / either[seen]).mean()) if bool(seen.any()) else 0.0


def _token_losses(scores: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Like `_pixel_losses`; scores (S, T, K)."""
    return _pixel_losses(scores.transpose(1, 2), labels, smoothing)


def _surprise(scores: Tensor, labels: Tensor) -> Tensor:
    """(2,): the sum of the cross-entropy over all labelled tokens, and their number."""
    tokens = F.cross_entropy(
        scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return torch.tensor([float(tokens), float((labels != IGNORED).sum())], dtype=torch.float64)


def _perplexity(sums: Tensor) -> float:
    total, count = sums.tolist()
    return math.exp(min(total / max(count, 1.0), 700.0))  # a larger exponent would overflow


CLASSIFICATION = Task(
    "classification",
    "one whole number a sample, (N,), from 0",
    "one score a class",
    ACCURACY,
    _class_losses,
    _hits,
    _share,
    lambda labels, outputs: (len(labels), outputs),
)
REGRESSION = Task(
    "regression",
    "floating-point targets, (N,) or (N, K)",
    "one output a target",
    R2,
    _square_losses,
    _squares,
    _explained,
    lambda labels, outputs: (len(labels), outputs),
)
SEGMENTATION = Task(
    "segmentation",
    f"a whole number from 0 for each pixel, (N, H, W), with {IGNORED} for those that do not count",
    "one score a class for each pixel",
    IOU,
    _pixel_losses,
    _overlaps,
    _mean_overlap,
    lambda labels, outputs: (len(labels), outputs, *labels.shape[1:]),
)
TEXT = Task(
    "text",
    "the next token at each place, (N, T), or absent: then the samples shifted by one",
    "one score a token of the vocabulary at each place",
    PERPLEXITY,
    _token_losses,
    _surprise,
    _perplexity,
    lambda labels, outputs: (*labels.shape, outputs),
)
TASKS = {task.name: task for task in (CLASSIFICATION, REGRESSION, SEGMENTATION, TEXT)}
"""The values of ``--task``."""

OWN = replace(CLASSIFICATION, name="own", labels="as the loss takes them", metric=LOSS)
"""A task whose labels only the user's own loss understands; that loss is reported."""
