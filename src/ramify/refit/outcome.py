"""The outcome of a cut: made on the model itself, measured, and undone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ramify import distributed
from ramify.edit import Edit
from ramify.edit.carry import Follower
from ramify.edit.plan import plan_edits
from ramify.errors import RamifyError
from ramify.probe.loss import (
    Loss,
    each_batch,
    losses_on,
    mean_loss,
    shaped_loss,
    sum_over_ranks,
)
from ramify.refit.paired_runs import Runs
from ramify.refit.reference import Reference
from ramify.refit.sequential import Refitted, Walk
from ramify.tracing import ChannelGraph
from ramify.tracing.kept_state import giving_back
from ramify.tracing.recorder import evaluating, tensors_of
from ramify.tracing.resizing import resized, set_data
from ramify.tracing.unharmed import unharmed
from ramify.tracing.writes import storage_of

Accept = Callable[[nn.Module], bool]
"""Whether a cut model is good enough, for example by its accuracy on validation data."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a tried cut.

    Attributes:
        edits: the edits that were made.
        loss: the mean loss after them, on the measuring samples.
        sample_loss: the same on the sample that chose the channels.
        refitted: the result for each reader.
        state: parameters and buffers after the cut.
        start: the mean loss of the full model on the sample.
        error: the standard error of the rise of that loss.
        runs: the runs of the full model and of the cut one on the sample, if it was refitted.
    """

    edits: tuple[Edit, ...]
    loss: float
    sample_loss: float
    refitted: list[Refitted]
    state: Mapping[str, Tensor]
    start: float
    error: float
    runs: Runs | None = None

    def put(self, model: nn.Module) -> None:
        """Give the edited model the weights of this outcome."""
        put_state(model, self.state)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}


def put_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Set parameters and buffers to the values from :func:`state_of`."""
    with torch.no_grad():
        for name, tensor in tensors_of(model).items():
            tensor.copy_(state[name])


def outcome_of(
    graph: ChannelGraph,
    edits: Sequence[Edit],
    loss: Loss,
    sample: Sequence[Any],
    held: Sequence[Any],
    *,
    refit: bool = True,
) -> Outcome:
    """Cut, refit and measure; the model is left unchanged.

    Args:
        graph: the traced model.
        edits: the edits of the cut.
        loss: `loss(model, batch)` -> (S,).
        sample: the batches to refit on.
        held: the batches to measure the loss on.
        refit: whether to refit the remaining weights.

    Returns:
        The outcome of the cut.
    """
    model = graph.model
    with cut_for_now(graph, edits) as reference:
        refitted, losses, runs = list[Refitted](), None, None
        if refit and edits:
            runs = Runs.recorded(model, reference, sample, partial(shaped_loss, loss))
            refitted, losses = _refitted(model, reference, runs)
        if losses is None:
            after = losses_on(model, loss, sample)
            with reference.restored():
                losses = losses_on(model, loss, sample), after
        start, chosen_on, error = _compared(*losses)
        measured = chosen_on if held is sample else mean_loss(model, loss, held)
        return Outcome(
            tuple(edits), measured, chosen_on, refitted, state_of(model), start, error, runs
        )


def is_accepted(graph: ChannelGraph, outcome: Outcome, accept: Accept) -> bool:
    """Whether the user's own check accepts a tried cut on every rank; the model is left unchanged.

    Args:
        graph: the traced model.
        outcome: the outcome of the cut.
        accept: the user's own check.

    Returns:
        Whether it does.

    Raises:
        RamifyError: the check returns neither True nor False.
    """
    with cut_for_now(graph, outcome.edits), evaluating(graph.model):
        outcome.put(graph.model)
        answer: Any = accept(graph.model)
    try:
        plain = answer.item() if hasattr(answer, "item") else answer
    except (RuntimeError, ValueError):  # a tensor or an array with several entries
        plain = None
    if not isinstance(plain, bool):
        raise RamifyError(
            f"accept(model) must return True or False, but returned {answer!r}: compare it, as in "
            "accuracy(model) >= 0.9"
        )
    return distributed.all_true(plain)


def _refitted(
    model: nn.Module, reference: Reference, runs: Runs
) -> tuple[list[Refitted], tuple[Tensor, Tensor] | None]:
    """Refit the readers; the walk's memory for all batches is freed afterwards.

    Returns:
        The result for each reader, and the losses (S,) of both networks if the walk knows them.
    """
    walk = Walk(model, reference, runs)
    return walk.refit(), walk.losses()


def _compared(before: Tensor, after: Tensor) -> tuple[float, float, float]:
    """The mean losses of all ranks' samples, and the standard error of their difference."""
    squares = (after.double() - before.double()).square()
    (start, _), (end, _), (square, count) = map(_mean_and_count, (before, after, squares))
    return start, end, math.sqrt(max(square - (end - start) ** 2, 0.0) / count)


def _mean_and_count(losses: Tensor) -> tuple[float, float]:
    total, count = sum_over_ranks(losses)
    return total / count, count


@contextmanager
def all_or_nothing(
    graph: ChannelGraph, optimizers: list[Optimizer], followers: list[Follower]
) -> Iterator[Callable[[], None]]:
    """If the block raises, restore model, optimizers, followers and graph.

    Args:
        graph: the traced model.
        optimizers: the optimizers that are edited too.
        followers: the followers that are edited too.

    Yields:
        A function to call before anything is written to: its first call copies all values.
    """
    superseded, keeping = graph.superseded, partial(unharmed, graph.model, *optimizers, *followers)
    try:
        with keeping(), ExitStack() as written:
            yield cache(lambda: written.enter_context(keeping(written=True)))
    except BaseException:
        graph.superseded = superseded
        raise


@contextmanager
def cut_for_now(graph: ChannelGraph, edits: Sequence[Edit]) -> Iterator[Reference]:
    """The model with edits made, inside the block; changes made to it there are discarded.

    Args:
        graph: the traced model.
        edits: the edits of the cut.

    Yields:
        The original model.
    """
    reference = Reference(graph, copied=False)
    reference.follow(graph, edits)
    changes = plan_edits(graph, edits).changes
    memory = {name: storage_of(tensor) for name, tensor in tensors_of(graph.model).items()}
    with resized(graph.model, graph.indexing, changes), borrowed(graph.model, memory):
        yield reference


@contextmanager
def borrowed(model: nn.Module, memory: Mapping[str, int] | None = None) -> Iterator[None]:
    """Replace all parameters and buffers by copies inside the block.

    Args:
        model: the model.
        memory: the addresses of the values to keep, by tensor: a tensor at another address is a
            copy already; None: all are copied.

    Yields:
        Nothing.
    """
    named = tensors_of(model).items()
    held = [
        (tensor, tensor.data)
        for name, tensor in named
        if memory is None or storage_of(tensor) == memory[name]
    ]
    with giving_back(lambda: [("a tensor", partial(set_data, *each)) for each in held]):
        for tensor, data in held:
            set_data(tensor, data.clone())
        yield


def samples(batches: Iterable[Any], held: Iterable[Any] | None) -> tuple[list[Any], list[Any]]:
    """The batches to choose on and those to measure on, which are the same if none are held out.

    Args:
        batches: the batches to choose the channels on.
        held: the batches to measure on; None for the same.

    Returns:
        Both, as one list if they are the same.

    Raises:
        RamifyError: one of them is empty.
    """
    sample = list(each_batch(batches))
    measured_on = sample if held is None else list(each_batch(held))
    if not sample or not measured_on:
        raise RamifyError("there is no batch to choose or measure on: give a few hundred samples")
    return sample, measured_on
