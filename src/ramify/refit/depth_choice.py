"""Depth against width under one budget: drop blocks as long as that improves the cut model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from ramify.cost import RESOURCES, graph_cost
from ramify.edit import Drop
from ramify.edit.block_edits import plan_blocks
from ramify.edit.depth import blocks_edited
from ramify.errors import OutOfReach, RamifyError
from ramify.probe.loss import Loss
from ramify.refit.block_takeover import refit_without
from ramify.refit.by_block import block_sensitivity
from ramify.refit.outcome import borrowed, state_of
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import find_block

T = TypeVar("T")
PATIENCE = 2
"""The number of further drops tried after the best number of drops."""


@dataclass(frozen=True)
class Shortened(Generic[T]):
    """The result of dropping some blocks and cutting the widths to a budget.

    Attributes:
        loss: the loss after the widths are cut.
        drops: the dropped blocks.
        state: parameters and buffers of the refitted model with these blocks still in it; none if
            no block is dropped.
        cut: information on the cut of the widths.
    """

    loss: float
    drops: Sequence[Drop]
    state: Mapping[str, Tensor]
    cut: T


def shortened_within(
    graph: ChannelGraph,
    loss: Loss,
    sample: Sequence[Any],
    budget: Mapping[str, float],
    cut: Callable[[ChannelGraph], tuple[float, T]],
    *,
    refit: bool = True,
) -> Shortened[T]:
    """Drop the blocks whose removal costs least loss once the widths are cut to a budget too.

    Blocks are dropped one after the other, in order of the measured rise of the loss per cost saved
    when each is dropped alone, with a refit. After each drop the remaining weights are refitted,
    the widths are cut to the budget, and the loss is measured.

    Args:
        graph: the traced model; it is left unchanged.
        loss: `loss(model, batch)` -> (S,).
        sample: the batches to choose on.
        budget: the most that the model may have, by resource.
        cut: gives the loss of a traced model after its widths are cut to the budget, and
            information on that cut; group names are those of the model without the blocks.
        refit: whether to refit the remaining weights.

    Returns:
        The best result; without any drop if cutting widths alone loses least.

    Raises:
        OutOfReach: the budget is out of reach with and without drops.
    """
    best: Shortened[T] | None = None
    refused: OutOfReach | None = None
    worse = 0
    resource = next((name for name in budget if name in RESOURCES), "macs")
    for drops in itertools.chain([[]], _growing(graph, loss, sample, resource, refit)):
        try:
            with _without(graph, drops, loss, sample, refit) as (shorter, state):
                left, known = cut(shorter)
                inside = _is_within(shorter, budget)
        except OutOfReach as error:
            refused = refused or error
            continue
        if best is None or left < best.loss:
            best, worse = Shortened(left, drops, state, known), 0
        else:
            worse += 1
        if inside or worse >= PATIENCE:
            break
    if best is None:
        assert refused is not None
        raise refused
    return best


def _is_within(graph: ChannelGraph, budget: Mapping[str, float]) -> bool:
    """Whether a model needs no cut, judged by counted costs only."""
    counted = {name: most for name, most in budget.items() if name in RESOURCES}
    now = graph_cost(graph)
    return counted == dict(budget) and all(now.of(n) <= most for n, most in counted.items())


def _growing(
    graph: ChannelGraph, loss: Loss, sample: Sequence[Any], resource: str, refit: bool
) -> Iterator[list[Drop]]:
    """Lists of one more block each, in order of the rise of the loss per cost saved."""
    rows = block_sensitivity(graph, loss, sample, refit=refit).rows
    gone: list[Drop] = []
    # A block whose drop lowers the loss comes first, whatever it saves.
    price = lambda row: row.rise / max(row.saved.of(resource), 1)  # noqa: E731
    for row in sorted(rows, key=lambda row: row.rise if row.rise <= 0 else price(row)):
        if not math.isfinite(row.rise):
            return
        with suppress(RamifyError):  # its list would be empty, or it contains a dropped block
            plan_blocks(graph, [*gone, row.edit])
            gone.append(row.edit)
            yield list(gone)


@contextmanager
def _without(
    graph: ChannelGraph, drops: Sequence[Drop], loss: Loss, sample: Sequence[Any], refit: bool
) -> Iterator[tuple[ChannelGraph, Mapping[str, Tensor]]]:
    """The graph of the model without some blocks inside the `with` block, and its state."""
    if not drops:
        yield graph, {}
        return
    with borrowed(graph.model):
        if refit:
            blocks = [find_block(graph.blocks, drop.block) for drop in drops]
            refit_without(graph, blocks, loss, sample)
        state = state_of(graph.model)
        with blocks_edited(graph, drops):
            yield graph.retrace(), state
