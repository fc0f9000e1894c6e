"""Depth against width under one budget: blocks are dropped as long as the cut model gains by it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ramify.cost import RESOURCES, graph_cost
from ramify.edit import Drop
from ramify.edit.block_edits import plan_blocks
from ramify.edit.depth import blocks_edited
from ramify.errors import RamifyError
from ramify.probe.loss import Loss
from ramify.refit.block_takeover import refit_without
from ramify.refit.by_block import block_sensitivity
from ramify.refit.outcome import borrowed
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import find_block

PATIENCE = 2
"""So many further drops are tried after the best number of them."""


def drops_within(
    graph: ChannelGraph,
    loss: Loss,
    sample: Sequence[Any],
    budget: Mapping[str, float],
    cut_loss: Callable[[ChannelGraph], float],
    *,
    refit: bool = True,
) -> list[Drop]:
    """The blocks without which the model, cut to a budget by its widths, loses least.

    Blocks go one after the other, first the one whose drop alone raises the true loss least for
    what it saves, once what stays has taken over. After each, what stays takes over from all of
    them, its widths are cut to the budget, and the loss is measured.

    Args:
        graph: the traced model; it is as it was afterwards.
        loss: `loss(model, batch)` -> (S,).
        sample: what to choose on.
        budget: the most that the model may have, by resource.
        cut_loss: the loss of a traced model once its widths are cut to the budget.
        refit: whether what stays takes over.

    Returns:
        The drops, none where widths alone lose least.

    Raises:
        RamifyError: the budget is out of reach with and without any block.
    """
    found: list[tuple[float, list[Drop]]] = []
    refused: RamifyError | None = None
    resource = next((name for name in budget if name in RESOURCES), "macs")
    for without in itertools.chain([[]], _growing(graph, loss, sample, resource, refit)):
        try:
            with _shortened(graph, without, loss, sample, refit) as shorter:
                found.append((cut_loss(shorter), without))
                inside = _is_within(shorter, budget)
        except RamifyError as error:
            refused = refused or error
            continue
        best = min(range(len(found)), key=lambda number: found[number][0])
        if inside or len(found) - 1 - best >= PATIENCE:
            break
    if not found:
        assert refused is not None
        raise refused
    return min(found, key=lambda one: one[0])[1]


def _is_within(graph: ChannelGraph, budget: Mapping[str, float]) -> bool:
    """Whether a model needs no cut, as far as its cost is counted."""
    counted = {name: most for name, most in budget.items() if name in RESOURCES}
    now = graph_cost(graph)
    return counted == dict(budget) and all(now.of(n) <= most for n, most in counted.items())


def _growing(
    graph: ChannelGraph, loss: Loss, sample: Sequence[Any], resource: str, refit: bool
) -> Iterator[list[Drop]]:
    """One block more each time: that which alone raises the loss least for what it saves."""
    rows = block_sensitivity(graph, loss, sample, refit=refit).rows
    gone: list[Drop] = []
    # A block whose drop lowers the loss goes first, whatever it saves.
    price = lambda row: row.rise / max(row.saved.of(resource), 1)  # noqa: E731
    for row in sorted(rows, key=lambda row: row.rise if row.rise <= 0 else price(row)):
        if not math.isfinite(row.rise):
            return
        with suppress(RamifyError):  # its list would be empty, or it holds one that went
            plan_blocks(graph, [*gone, row.edit])
            gone.append(row.edit)
            yield list(gone)


@contextmanager
def _shortened(
    graph: ChannelGraph, drops: Sequence[Drop], loss: Loss, sample: Sequence[Any], refit: bool
) -> Iterator[ChannelGraph]:
    """The graph of the model without some blocks, for the time of the block."""
    if not drops:
        yield graph
        return
    with borrowed(graph.model):
        if refit:
            blocks = [find_block(graph.blocks, drop.block) for drop in drops]
            refit_without(graph, blocks, loss, sample)
        with blocks_edited(graph, drops):
            yield graph.retrace()
