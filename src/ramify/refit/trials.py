"""Many cuts of one model, each made on the model itself, measured and undone.

The part before a cut is unchanged. The full network is therefore run along with the trials, in
forward order, and each trial continues from the first operation that its cut affects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ramify import distributed
from ramify.edit import Edit
from ramify.edit.plan import plan_edits
from ramify.probe.loss import Loss, shaped_loss
from ramify.refit.player import Player
from ramify.refit.tapes import for_other, same_operations, same_until, tapes_of
from ramify.tracing import ChannelGraph
from ramify.tracing.recorder import Tape, tensors_of
from ramify.tracing.resizing import resized


def losses_of_cuts(
    graph: ChannelGraph, cuts: Sequence[Sequence[Edit]], loss: Loss, batches: Sequence[Any]
) -> list[float]:
    """The mean loss of each cut, without a refit; the model is left unchanged.

    Args:
        graph: the traced model.
        cuts: the edits of each cut; with no edits, the cut is the model itself.
        loss: `loss(model, batch)` -> (S,).
        batches: the batches to measure on.

    Returns:
        One mean loss per cut, over the samples of all ranks; infinity if it is not finite.
    """
    model, tensors, loss = graph.model, tensors_of(graph.model), partial(shaped_loss, loss)
    tapes = tapes_of(model, batches, loss)
    # The first batch is run completely in each trial, which gives the operations; batches that run
    # the same ones in the full model continue from where the cut begins.
    full = [Player(tape, tensors) if same_operations(tapes[0], tape) else None for tape in tapes]
    full[0] = None
    changes = [plan_edits(graph, edits).changes for edits in cuts]
    begins = [_begins(tapes[0], set(graph.indexing.touched(change))) for change in changes]
    found = [math.nan] * len(cuts)
    for number in sorted(range(len(cuts)), key=lambda number: begins[number]):
        for player in full:
            if player is not None:
                player.advance(begins[number])
        with resized(model, graph.indexing, changes[number]):
            [tape] = tapes_of(model, batches[:1], loss)
            same = same_operations(tape, tape) and same_until(tapes[0], tape) >= begins[number]
            losses = [tape.results[0]]
            for player, batch in zip(full[1:], batches[1:], strict=True):
                shared = for_other(tape, batches[0], batch) if same else None
                losses.append(_losses(graph, player, shared, loss, batch))
        found[number] = _mean(losses)
    return found


def _begins(tape: Tape, names: set[str]) -> int:
    """The first operation that uses one of these tensors; the number of operations if none does."""
    places = (
        position
        for position, op in enumerate(tape.ops)
        if any(tape.names.get(ref.index) in names for ref in op.inputs())
    )
    return next(places, len(tape.ops))


def _losses(
    graph: ChannelGraph, full: Player | None, tape: Tape | None, loss: Loss, batch: Any
) -> Tensor:
    """The losses (S,) of a batch in the current model, continued from the full model's replay."""
    if full is None or tape is None:
        return tapes_of(graph.model, [batch], loss)[0].results[0]
    run = full.onto(tape)
    run.advance(len(tape.ops))
    return run.value(tape.outputs[0])


def _mean(losses: Sequence[Tensor]) -> float:
    """The mean over the samples of all ranks; infinity if it is not finite."""
    each = torch.cat([part.detach().double().cpu() for part in losses])
    [total] = distributed.all_sum(
        [torch.stack([each.sum(), torch.tensor(float(len(each))).double()])]
    )
    mean = float(total[0] / total[1])
    return mean if math.isfinite(mean) else math.inf
