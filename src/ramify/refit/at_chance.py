"""The loss at chance: that of a model that ignores its input.

Shape letters: `S` samples, `O` outputs of a reader.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.probe.loss import Loss, checked_loss
from ramify.refit.player import Player
from ramify.refit.readers import Reader
from ramify.refit.tapes import Courses, tapes_of
from ramify.tracing.recorder import Tape, tensors_of

FEW = 4
"""With fewer answers their mean says little about chance."""
MOST = 16
"""The number of batches on which the loss at chance is measured; each is replayed twice."""
FACTORS = (0.0, *(2.0**-power for power in range(6)))
"""The answers are tried at these multiples of their mean."""
_Answers = tuple[str, Tensor, int]
"""The parameter of a reader, the mean of its answers on one batch, shape (O,), and their number."""


def constant_loss(model: nn.Module, loss: Loss, batches: Sequence[Any]) -> float:
    """The mean loss of a model that ignores its input: its last readers give one answer each.

    The answers are their means over all samples, times the factor that loses least of a few: the
    logits of a classifier that is sure of each sample have a mean that is too large.

    Args:
        model: the network.
        loss: `loss(model, batch)` -> (S,).
        batches: the batches of this rank. At most 16 are used, spread evenly over all of them,
            since data may be sorted by class. Every rank must call it.

    Returns:
        The loss at chance, over the samples of all ranks; infinity if it is not finite, if the
        model has no linear reader, or if there are fewer than four answers.
    """
    count = min(len(batches), MOST)
    chosen = [batches[number * len(batches) // count] for number in range(count)]
    tapes, courses = tapes_of(model, chosen, partial(checked_loss, loss)), Courses()
    runs = [(tape, _last_readers(tape, courses.of(tape).readers)) for tape in tapes]
    tensors, known = tensors_of(model), list[_Answers | None]()
    for tape, last in runs:
        player = Player(tape, tensors)
        known += [_answers(player, reader) for reader in last] or [None]
    # The same on all ranks, since it decides what they do next.
    means = _means([each for own in distributed.all_gather(known) for each in own])
    if means is None:
        return math.inf
    totals = torch.zeros(len(FACTORS), 2, dtype=torch.float64)
    for tape, last in runs:
        start = Player(tape, tensors)
        start.advance(last[0].position)
        for number, factor in enumerate(FACTORS):
            # Not a fork, which an operation in place would change for all.
            player = start.onto(tape)
            for reader in last:
                player.advance(reader.position + 1)
                made = player.value(reader.result)
                along = reader.along(made.dim())
                shape = [size if dim == along else 1 for dim, size in enumerate(made.shape)]
                answer = factor * means[reader.name].view(shape)
                player.replace(reader.result, torch.empty_like(made).copy_(answer))
            player.advance(len(tape.ops))
            losses = player.value(tape.outputs[0]).double()
            totals[number, 0] += float(losses.sum())
            totals[number, 1] += len(losses)
    [totals] = distributed.all_sum([totals])
    found = (totals[:, 0] / totals[:, 1]).tolist()
    return min((mean for mean in found if math.isfinite(mean)), default=math.inf)


def _answers(player: Player, reader: Reader) -> _Answers:
    """Replay until after a reader."""
    player.advance(reader.position + 1)
    made = player.value(reader.result)
    along = reader.along(made.dim())
    answers = made.movedim(along, -1).reshape(-1, made.shape[along])
    wide = torch.promote_types(made.dtype, torch.float64)
    return reader.name, answers.mean(0).cpu().to(wide), len(answers)


def _means(known: Sequence[_Answers | None]) -> dict[str, Tensor] | None:
    """The mean answer of each reader over all batches; None if a run has no reader, or few answers.

    Returns:
        The parameter of the reader -> (O,).
    """
    totals, counts = dict[str, Tensor](), Counter[str]()
    for each in known:
        if each is None:
            return None
        name, mean, count = each
        totals[name] = totals.get(name, torch.zeros_like(mean)) + count * mean
        counts[name] += count
    if min(counts.values()) < FEW:
        return None
    return {name: total / counts[name] for name, total in totals.items()}


def _last_readers(tape: Tape, readers: Sequence[Reader]) -> list[Reader]:
    """The readers whose outputs the loss uses other than through later readers, in order."""
    at, found = {reader.position: reader for reader in readers}, list[Reader]()
    used = {tape.outputs[0]}
    for position, op in reversed(list(enumerate(tape.ops))):
        written = {*op.results(), *(op.inputs() if op.is_mutable else ())}
        if used.isdisjoint(written):
            continue
        if position in at:
            found.append(at[position])
        else:
            used.update(op.inputs())
    return found[::-1]
