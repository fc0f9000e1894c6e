"""The user's per-sample loss, and checks of it, of the weights and of the batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.arguments import form_of
from ramify.errors import Diverged, RamifyError
from ramify.tracing.inputs import OF_INPUTS
from ramify.tracing.recorder import evaluating

Loss: TypeAlias = Callable[[nn.Module, Any], Tensor]
"""`loss(model, batch)` -> shape (S,): one loss per sample; Ramify takes the mean."""

_TOO_FEW = ("more than 1 value per channel", "more than 1 spatial element")
"""What torch says of a norm in train mode that gets one value only."""
NO_SAMPLE = "a batch holds no sample: leave empty batches out of the data"
_NO_GRADIENT = "does not require grad"


def checked_loss(loss: Loss, model: nn.Module, batch: Any) -> Tensor:
    """The user's loss on a batch, checked to be one finite number per sample.

    Args:
        loss: `loss(model, batch)`.
        model: the network.
        batch: one of the user's batches.

    Returns:
        Shape (S,).

    Raises:
        RamifyError: the loss fails, is not of shape (S,), S is 0, or a value is not finite.
    """
    values = shaped_loss(loss, model, batch)
    check_finite(values)
    return values


def shaped_loss(loss: Loss, model: nn.Module, batch: Any) -> Tensor:
    """The user's loss on a batch, one number per sample, without checking that it is finite.

    Args:
        loss: `loss(model, batch)`.
        model: the network.
        batch: one of the user's batches.

    Returns:
        Shape (S,).

    Raises:
        RamifyError: the loss fails, is not of shape (S,) or not of real numbers, or S is 0.
    """
    values = called_loss(loss, model, batch)
    if not isinstance(values, Tensor) or values.dim() != 1:
        raise RamifyError(
            "the loss must return one number for each sample, a tensor of shape (S,), but returned "
            f"{form_of(values)}: {_advice(values)}"
        )
    if not values.is_floating_point():
        raise RamifyError(
            f"the loss must return real numbers, but returned {values.dtype}: give the loss that "
            "is trained on, or .float() of what is counted, or .real of what is complex"
        )
    if not len(values):
        raise RamifyError(NO_SAMPLE)
    return values


def mean_loss(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> float:
    """The mean loss over all samples of all ranks, in eval mode.

    Args:
        model: the network.
        loss: `loss(model, batch)` -> (S,).
        batches: the batches to measure on.

    Returns:
        The mean.

    Raises:
        RamifyError: there is no batch, or the loss is not one finite number per sample.
    """
    total, count = summed_loss(model, loss, batches)
    return total / count


def summed_loss(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> tuple[float, float]:
    """The sum of the losses of all ranks' samples, in eval mode, and the number of samples.

    Args:
        model: the network.
        loss: `loss(model, batch)` -> (S,).
        batches: the batches to measure on.

    Returns:
        The sum and the number.

    Raises:
        RamifyError: there is no batch, or the loss is not one number per sample.
        Diverged: a loss is not finite; on every rank.
    """
    return sum_over_ranks(losses_on(model, loss, batches))


def losses_on(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> Tensor:
    """The losses of this rank's samples, in eval mode.

    Args:
        model: the network.
        loss: `loss(model, batch)` -> (S,).
        batches: the batches to measure on.

    Returns:
        Shape (S,), S the samples of all batches.

    Raises:
        RamifyError: there is no batch, or the loss is not one number per sample.
    """
    with evaluating(model):
        losses = [shaped_loss(loss, model, batch) for batch in each_batch(batches)]
    if not losses:
        raise RamifyError(
            "there is no batch to measure the loss on; give a list or a DataLoader, not an "
            "iterator that ends after one pass."
        )
    return torch.cat(losses)


def sum_over_ranks(losses: Tensor) -> tuple[float, float]:
    """The sum over all ranks' samples, and their number.

    Args:
        losses: those of this rank's samples, shape (S,).

    Returns:
        The sum and the number.

    Raises:
        Diverged: a loss is not finite; on every rank, so that none waits for the others.
    """
    count = torch.tensor(float(len(losses)), dtype=torch.float64, device=losses.device)
    [total] = distributed.all_sum([torch.stack([losses.double().sum(), count])])
    if not math.isfinite(float(total[0])):
        check_finite(losses)
        raise Diverged("a sample of another rank has a loss that is not finite: check the data")
    return float(total[0]), float(total[1])


def least_loss(model: nn.Module, loss: Loss, batches: Iterable[Any]) -> float:
    """The smallest loss of a sample of any rank, in eval mode; 0 if there is none."""
    with evaluating(model):
        each = [float(shaped_loss(loss, model, batch).min()) for batch in batches]
    return min(distributed.all_gather(min(each, default=0.0)))


def check_finite(values: Tensor) -> None:
    """Check that every loss is finite.

    Args:
        values: the losses, shape (S,).

    Raises:
        Diverged: a loss is not finite; it names the first such sample.
    """
    if not bool(torch.isfinite(values).all()):
        worst = int((~torch.isfinite(values)).nonzero()[0])
        raise Diverged(
            f"the loss of sample {worst} is {float(values[worst].detach())}: lower the learning "
            "rate or check the data before growing"
        )


def check_follows(values: Tensor) -> None:
    """Check that autograd can follow the losses back to the weights.

    Args:
        values: the losses, shape (S,).

    Raises:
        RamifyError: it cannot.
    """
    if not values.requires_grad:
        raise RamifyError(
            "no gradient reaches the weights from the loss: return what the model's outputs give, "
            "without .detach(), .item() or torch.no_grad() in between"
        )


def _advice(values: Any) -> str:
    """How to get one number per sample from the result of a loss."""
    if not isinstance(values, Tensor):
        return "return the tensor of losses"
    if values.dim() == 0:
        return 'use reduction="none", so that samples are not averaged'
    one = values.numel() == len(values)
    return "flatten it, as by .flatten()" if one else "take each sample's mean, .flatten(1).mean(1)"


def called_loss(loss: Loss, model: nn.Module, batch: Any) -> Any:
    """The result of the user's loss on a batch, as it is.

    Args:
        loss: `loss(model, batch)`.
        model: the network.
        batch: one of the user's batches.

    Returns:
        What the loss returns.

    Raises:
        RamifyError: the loss fails; the message says on what batch and how.
        OutOfMemoryError: there is not enough memory for it.
    """
    try:
        return loss(model, batch)
    except (RamifyError, torch.OutOfMemoryError):
        raise
    except OF_INPUTS as error:
        advice = (
            "it takes the model and one of the batches, which are given as a list or another "
            "iterable of batches, such as [batch]"
        )
        if any(said in str(error) for said in _TOO_FEW):
            advice = (
                "a norm layer cannot train on a batch of one sample: leave out the last batch of "
                "an epoch if it is so small (drop_last=True in a DataLoader), or choose another "
                "batch size"
            )
        elif _NO_GRADIENT in str(error) and not torch.is_grad_enabled():
            advice = (
                "losses are measured without gradients, so that one which takes gradients itself, "
                "such as a gradient penalty, takes them inside `with torch.enable_grad():`"
            )
        raise RamifyError(
            f"loss(model, batch) failed on a batch of type {type(batch).__name__} "
            f"({type(error).__name__}: {error}): {advice}"
        ) from error


def check_weights(model: nn.Module) -> None:
    """Check that every parameter is finite, and of a type that can be trained.

    Raises:
        RamifyError: one is not; the message names the first such parameter.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype.itemsize == 1:
            raise RamifyError(
                f"parameter '{name}' is of {parameter.dtype}, which torch neither trains nor "
                "compares: edit the model as it is, or score and train it in bfloat16 or more"
            )
        if not bool(torch.isfinite(parameter).all()):
            raise RamifyError(
                f"parameter '{name}' holds values that are not finite: go back to an earlier "
                "checkpoint, or lower the learning rate"
            )


def check_real(model: nn.Module) -> None:
    """Check that no parameter is complex.

    Raises:
        RamifyError: one is; the message names the first such parameter.
    """
    name = first_complex(model)
    if name is not None:
        raise RamifyError(
            f"parameter '{name}' is complex, and this method estimates the effect of channels of "
            "real weights only: use ramify.L1, ramify.RandomSplit or ramify.Net2Net"
        )


def first_complex(model: nn.Module) -> str | None:
    """The name of the first complex parameter; None if there is none."""
    return next((name for name, p in model.named_parameters() if p.is_complex()), None)


def each_batch(batches: Any) -> Iterator[Any]:
    """Go through what a user gave as batches.

    Args:
        batches: a list, a DataLoader or another iterable.

    Returns:
        An iterator over the batches.

    Raises:
        RamifyError: it cannot be iterated over.
    """
    if not isinstance(batches, Iterable) or (isinstance(batches, Tensor) and not batches.dim()):
        raise RamifyError(
            f"the batches are a {type(batches).__name__}: give a list of them, such as [batch], or "
            "a DataLoader"
        )
    return iter(batches)


def first_batches(model: nn.Module, loss: Loss, passing: Iterator[Any], samples: int) -> list[Any]:
    """The next batches of an iterator that together hold a number of samples.

    Args:
        model: the network, which runs in eval mode.
        loss: `loss(model, batch)` -> (S,), which counts the samples of a batch.
        passing: the iterator; the batches after the returned ones stay in it.
        samples: the least number of samples, if the iterator has as many.

    Returns:
        The batches.

    Raises:
        RamifyError: the loss is not one finite number per sample.
    """
    found, count = list[Any](), 0
    with evaluating(model):
        while count < samples and (batch := next(passing, None)) is not None:
            found.append(batch)
            count += len(checked_loss(loss, model, batch))
    return found


def number_of_batches(batches: Any) -> int | None:
    """The number of batches, if the data know it."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # a DataLoader over a stream defines `__len__` but has no length
        return None
