"""The expected loss of a cut on unseen samples, by refitting on two halves of the sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ramify import distributed
from ramify.errors import Diverged
from ramify.probe.loss import Loss, summed_loss
from ramify.refit.outcome import Outcome, cut_for_now
from ramify.refit.sequential import Walk
from ramify.tracing import ChannelGraph


def expected_rise(
    graph: ChannelGraph, outcome: Outcome, loss: Loss, sample: Sequence[Any]
) -> float:
    r"""The expected rise of the mean loss by a cut on unseen samples of the same distribution.

    A refit fits its own samples best: the loss is too small on them by as much as it is too large
    on others, both in proportion to 1/S. With :math:`\Delta` the rise on the sample, and
    :math:`\Delta_{1/2}` the rise on each half of it after a refit on the other half (with the λ of
    the refit on all samples), the expected rise on other samples is

    .. math:: \Delta + \tfrac23 (\Delta_{1/2} - \Delta).

    This does not include the effect of choosing the channels on the sample, nor that a network that
    was trained on these samples may lose more on others.

    Args:
        graph: the traced model.
        outcome: the cut.
        loss: `loss(model, batch)` -> (S,).
        sample: the samples used to choose and refit.

    Returns:
        The rise; nan if there are fewer than two batches, and infinity if a loss on a half is not
        finite.

    Source: the weights are nearly those of the .632 estimator, B. Efron, "Estimating the error rate
    of a prediction rule: improvement on cross-validation", 1983.
    """
    if not distributed.all_true(len(sample) > 1):
        return math.nan
    strengths = {one.name: [one.strength] for one in outcome.refitted if one.strength > 0}
    halves, after, count = (slice(0, None, 2), slice(1, None, 2)), 0.0, 0.0
    for seen, unseen in (halves, halves[::-1]):
        with cut_for_now(graph, outcome.edits) as reference:
            if outcome.runs is not None:
                runs = outcome.runs.part(seen)
                Walk(graph.model, reference, runs, strengths=strengths).refit()
            try:
                total, number = summed_loss(graph.model, loss, sample[unseen])
            except Diverged:
                return math.inf
        after, count = after + total, count + number
    inside, across = outcome.sample_loss - outcome.start, after / count - outcome.start
    return inside + 2 / 3 * (across - inside)
