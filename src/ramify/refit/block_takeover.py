"""What stays takes over from blocks that go: their stream is made up for, by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ramify.edit import Drop
from ramify.probe.loss import Loss, shaped_loss
from ramify.refit.paired_runs import Runs
from ramify.refit.reference import Reference
from ramify.refit.sequential import Walk
from ramify.tracing import ChannelGraph
from ramify.tracing.blocks import find_block
from ramify.tracing.recorder import tensors_of


def take_over(
    graph: ChannelGraph, drops: Sequence[Drop], loss: Loss, sample: Sequence[Any]
) -> None:
    """Let the blocks that stay make up for those that are about to go, in place.

    The branches of what goes are set to zero, which leaves what a drop leaves, and every linear
    reader behind them is refitted to make what it made before, what its stream has lost included.

    Args:
        graph: the traced model; its weights change.
        drops: what will go; where one of the blocks has no branches that can be zero, nothing is
            done.
        loss: `loss(model, batch)` -> (S,).
        sample: what to refit on.
    """
    blocks = [find_block(graph.blocks, drop.block) for drop in drops]
    if not all(block.ends for block in blocks):
        return
    reference, tensors = Reference(graph), tensors_of(graph.model)
    with torch.no_grad():
        for block in blocks:
            for end in block.ends:
                tensors[end.name].fill_(end.value)
    runs = Runs.recorded(graph.model, reference, sample, partial(shaped_loss, loss))
    inside = {name for block in blocks for name in block.own}
    Walk(graph.model, reference, runs, left_out=inside).refit()
