"""Many cuts of one model, each tried on the model itself, measured and taken back.

What lies in front of a cut is as it was. The full network is therefore run along with the trials,
in forward order, and each trial goes on from where its cut begins to be seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ramify import distributed
from ramify.edit import Edit
from ramify.edit.plan import plan_edits
from ramify.probe.loss import Loss
from ramify.refit.player import Player
from ramify.refit.tapes import alike, for_other, same_until, tapes_of
from ramify.tracing import ChannelGraph
from ramify.tracing.indexing import resized
from ramify.tracing.recorder import Tape, tensors_of


def losses_of_cuts(
    graph: ChannelGraph, cuts: Sequence[Sequence[Edit]], loss: Loss, batches: Sequence[Any]
) -> list[float]:
    """The mean loss of each cut, nothing refitted; the model is as it was afterwards.

    Args:
        graph: the traced model.
        cuts: the edits of each; what has no edit is the model as it is.
        loss: `loss(model, batch)` -> (S,).
        batches: what to measure on.

    Returns:
        One mean loss a cut, over the samples of every rank; infinity where it is not finite.
    """
    model, tensors = graph.model, tensors_of(graph.model)
    tapes = tapes_of(model, batches, loss)
    players = [Player(tape, tensors) for tape in tapes]
    changes = [plan_edits(graph, edits).changes for edits in cuts]
    begins = [_begins(tapes[0], set(graph.indexing.touched(change))) for change in changes]
    repeats = [alike(tapes[0], tape) for tape in tapes]
    found = [math.nan] * len(cuts)
    for number in sorted(range(len(cuts)), key=lambda number: begins[number]):
        for player in players:
            player.advance(begins[number])
        with resized(model, graph.indexing, changes[number]):
            found[number] = _mean(_losses(graph, players, repeats, loss, batches))
    return found


def _begins(tape: Tape, names: set[str]) -> int:
    """The first operation that takes one of these tensors; the end where none does."""
    places = (
        position
        for position, op in enumerate(tape.ops)
        if any(tape.names.get(ref.index) in names for ref in op.inputs())
    )
    return next(places, len(tape.ops))


def _losses(
    graph: ChannelGraph,
    players: Sequence[Player],
    repeats: Sequence[bool],
    loss: Loss,
    batches: Sequence[Any],
) -> list[Tensor]:
    """The losses of each batch in the model as it is now, from where the players are.

    The first batch is run in whole, and says what is run; those that repeated it in the full model
    go on from where they are.

    Returns:
        (S,) for each batch.
    """
    [tape] = tapes_of(graph.model, batches[:1], loss)
    first = players[0]
    same = alike(tape, tape) and same_until(first.tape, tape) >= first.position
    made = [tape.results[0]]
    for player, batch, repeated in list(zip(players, batches, repeats, strict=True))[1:]:
        shared = for_other(tape, batches[0], batch) if same and repeated else None
        if shared is None:
            made.append(tapes_of(graph.model, [batch], loss)[0].results[0])
            continue
        run = player.onto(shared)
        run.advance(len(shared.ops))
        made.append(run.value(shared.outputs[0]))
    return made


def _mean(losses: Sequence[Tensor]) -> float:
    """The mean over the samples of every rank; infinity where it is not finite."""
    each = torch.cat([part.detach().double().cpu() for part in losses])
    [total] = distributed.all_sum(
        [torch.stack([each.sum(), torch.tensor(float(len(each))).double()])]
    )
    mean = float(total[0] / total[1])
    return mean if math.isfinite(mean) else math.inf
