"""Refit the remaining blocks by least squares to replace blocks that are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch

from ramify.arguments import each_of
from ramify.edit import Drop
from ramify.edit.block_edits import plan_blocks
from ramify.edit.plan import check_current
from ramify.errors import RamifyError
from ramify.probe.loss import Loss, shaped_loss
from ramify.refit.outcome import samples
from ramify.refit.paired_runs import Runs
from ramify.refit.reference import Reference
from ramify.refit.sequential import Refitted, Walk
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import Block, find_block
from ramify.tracing.recorder import tensors_of
from ramify.tracing.unharmed import unharmed
from ramify.tracing.untouched import alone


def take_over(
    graph: ChannelGraph, blocks: Iterable[Block | str], loss: Loss, batches: Iterable[Any]
) -> list[Refitted]:
    """Refit the remaining blocks in place to make up for blocks that are about to be dropped.

    The branches of the given blocks are set to zero, which has the same effect as
    :class:`ramify.Drop`. Then every linear reader after them is refitted, in forward order, to
    restore its original output plus what its stream has lost, and batch norms get the statistics of
    their new inputs, as in :func:`ramify.cut`. Drop the blocks next.

    Args:
        graph: the traced model; its weights change.
        blocks: the names of the blocks that will be dropped.
        loss: `loss(model, batch)` -> (S,); it is only used to run the model, and labels are not
            used.
        batches: a few hundred samples to refit on.

    Returns:
        The result for each reader, in forward order.

    Raises:
        RamifyError: no batch, or a block that cannot be dropped or whose branches cannot be zero;
            the model is then unchanged.

    Example:
        >>> import ramify
        >>> from torch import nn
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> make = lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        >>> net, x = nn.Sequential(make(), make(), make()).eval(), torch.randn(64, 5, 8)
        >>> before = net(x).detach()
        >>> loss = lambda model, x: (model(x) - before).square().mean((1, 2))
        >>> graph = ramify.trace(net, x[:1])
        >>> alone = ramify.block_sensitivity(graph, loss, [x], blocks=["1"]).rows[0].loss
        >>> refitted = ramify.take_over(graph, ["1"], loss, [x])
        >>> graph = ramify.apply(graph, [ramify.Drop("1")])
        >>> float(loss(net, x).mean()) < 0.7 * alone
        True
    """
    check_current(graph)
    sample, _ = samples(batches, None)
    found = [find_block(graph.blocks, block) for block in each_of(blocks, "blocks", "blocks")]
    plan_blocks(graph, map(Drop, found))
    for block in found:
        if not block.ends:
            raise RamifyError(
                f"nothing can take over from block '{block.name}' before it is dropped, as no "
                "weight was found that makes its branch zero: drop it as it is, and train"
            )
    with alone(), unharmed(graph.model, written=True):
        return refit_without(graph, found, loss, sample)


def refit_without(
    graph: ChannelGraph, blocks: Sequence[Block], loss: Loss, sample: Sequence[Any]
) -> list[Refitted]:
    """What :func:`take_over` does; nothing if a block has no end that can be zero.

    Args:
        graph: the traced model; its weights change.
        blocks: the blocks that will be dropped.
        loss: `loss(model, batch)` -> (S,).
        sample: the batches to refit on.

    Returns:
        The result for each reader.
    """
    if not all(block.ends for block in blocks):
        return []
    reference, tensors = Reference(graph), tensors_of(graph.model)
    with torch.no_grad():
        for block in blocks:
            for end in block.ends:
                tensors[end.name].fill_(end.value)
    runs = Runs.recorded(graph.model, reference, sample, partial(shaped_loss, loss))
    inside = {name for block in blocks for name in block.own}
    return Walk(graph.model, reference, runs, left_out=inside).refit()
