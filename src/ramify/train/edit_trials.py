"""A selection of edits, measured as a whole before it is kept: shortened, thinned out, or left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.edit import BlockEdit, Edit, Prune, Split
from ramify.methods import Proposal
from ramify.methods.trial import edited
from ramify.probe.loss import Loss, checked_loss, each_batch, mean_loss
from ramify.tracing import ChannelGraph
from ramify.tracing.recorder import evaluating
from ramify.train.calibration import calibration
from ramify.train.norm_statistics import recompute_statistics

TOLERANCE = 5e-4
"""The share of the loss that a trial may raise it by: half of the 0.1 % that an edit may.

The rest is for what follows, as when kernels get their length back before a norm's epsilon.
"""
SHORTEST = 1 / 64
"""Of the displacements that a method proposed; copies of no displacement would never part."""
TRIALS = 16
"""So many trials at most find out which prunes do harm."""
HELD = 1024
"""So many samples of the training data judge edits where no others are given."""


@dataclass(frozen=True)
class Tried:
    """What is left of a selection once it was tried.

    Attributes:
        selected: The proposals that were selected and stay.
        edits: What to do for each of them, displacements shortened; or for blocks in their place.
        factor: What the displacements of splits were multiplied by.
        dropped: How many that were selected do not stay.
        gain: By how much what is left lowered the mean loss of every other batch that judges, None
            where nothing was tried.
    """

    selected: Sequence[Proposal]
    edits: Sequence[Edit | BlockEdit]
    factor: float = 1.0
    dropped: int = 0
    gain: float | None = None


class EditTrials:
    """The mean loss after edits, on the network itself and taken back; the batches stay in memory.

    Batch norms have the running statistics that they have on these batches, before an edit and
    after it: that is what training is about to give them, and those of a displaced copy are not
    those of the channel that it came from.

    Args:
        graph: Of the network, whose statistics are found anew.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        batches: What to measure on.
        most: So many samples at least are taken, if there are as many; None for all.

    Raises:
        RamifyError: There is no batch.
    """

    def __init__(
        self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any], most: int | None = None
    ) -> None:
        self.graph, self.loss = graph, loss
        self.held: list[Any] = []
        self._several: list[Any] = []  # a batch norm has no statistics of one sample
        samples, counts = 0, list[int]()
        with evaluating(graph.model):
            for batch in each_batch(batches):
                count = len(checked_loss(loss, graph.model, batch))
                samples += count
                self.held.append(batch)
                counts.append(count)
                self._several += [batch] if count > 1 else []
                if most is not None and samples >= most:
                    break
        each = [
            torch.tensor(sum(part), dtype=torch.float64) for part in (counts[::2], counts[1::2])
        ]
        self._samples = [float(total) for total in distributed.all_sum(each)]
        self._buffers = [(one, one.detach().clone()) for one in graph.model.buffers()]
        self.before = self.settle()
        self._some_before = self._some

    def after(self, edits: Iterable[Edit]) -> float:
        """The mean loss after edits, huge where it is no number."""
        with edited(self.graph, edits):
            return self._measured(self._finite)

    def settle(self, *, strict: bool = True) -> float:
        """Give the network the statistics that it has on these batches, and measure it as it is.

        Args:
            strict: Whether a loss that is no number is an error, or huge.

        Returns:
            The mean loss.
        """
        return self._measured(self.loss if strict else self._finite)

    @property
    def gain_on_some(self) -> float:
        """By how much the last trial lowered the mean loss of every other batch."""
        return self._some_before - self._some

    def undo(self) -> None:
        """Give the network back the statistics that it came with; it was not edited."""
        for buffer, value in self._buffers:
            buffer.copy_(value)

    def _measured(self, loss: Loss) -> float:
        if self.held:  # else the next line says that there is nothing to measure on
            recompute_statistics(self.graph.model, loss, self._several or self.held)
        model, halves = self.graph.model, (self.held[::2], self.held[1::2])
        means = [mean_loss(model, loss, part) for part in halves if part or part is halves[0]]
        weighted = zip(means, self._samples, strict=False)
        mean = sum(one * count for one, count in weighted) / sum(self._samples)
        # What ranks compute from the same numbers may differ in the last bit, and they decide.
        mean, self._some = distributed.broadcast((mean, means[0]))
        return float(mean)

    def _finite(self, model: nn.Module, batch: Any) -> Tensor:
        return torch.nan_to_num(self.loss(model, batch), nan=torch.inf).clamp_max(1e30)


def try_edits(
    trials: EditTrials,
    selected: Sequence[Proposal],
    fitted: Callable[[Sequence[Proposal]], Sequence[Proposal]],
    *,
    by_group: bool = False,
) -> Tried:
    """Keep of a selection what does not raise the loss by more than `TOLERANCE` of it.

    The whole is tried first. Where it raises the loss, prunes that do harm are left out, found by
    halving; what is left is fitted into the budget again, for prunes make room; and splits are
    shortened by halves until the loss stays, or left out where not even `SHORTEST` is short enough.

    Args:
        trials: Of the network as it is.
        selected: What a rule selected.
        fitted: Brings a selection within the budget.
        by_group: Whether all edits of a group stay or go together, as multiples of widths need.

    Returns:
        What is left.
    """
    rise = TOLERANCE * abs(trials.before)
    if trials.after([proposal.edit for proposal in selected]) <= trials.before + rise:
        edits = [proposal.edit for proposal in selected]
        return Tried(selected, edits, gain=trials.gain_on_some)
    # Beside splits, prunes may use half of what is tolerated, so that the rest is left for those.
    pieces, others = _pieces(selected, by_group)
    harmless = _harmless(trials, pieces, trials.before + (rise / 2 if others else rise))
    kept = list(fitted([*harmless, *others]))
    factor = 1.0
    while factor >= SHORTEST and any(isinstance(proposal.edit, Split) for proposal in kept):
        edits = [shortened(proposal.edit, factor) for proposal in kept]
        if trials.after(edits) <= trials.before + rise:
            left_out = len(selected) - len(kept)
            return Tried(kept, edits, factor, left_out, trials.gain_on_some)
        factor /= 2
    edits = [proposal.edit for proposal in harmless]
    if edits:  # the last trial was of more than these
        trials.after(edits)
    return Tried(harmless, edits, 1.0, len(selected) - len(harmless), trials.gain_on_some)


def shortened(edit: Edit, factor: float) -> Edit:
    """An edit with its displacements multiplied by a factor; a prune has none."""
    if isinstance(edit, Prune):
        return edit
    return replace(edit, offsets={name: factor * part for name, part in edit.offsets.items()})


def foretold(tried: Tried, history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the history keeps of a trial beside what is measured.

    Args:
        tried: What is done.
        history: The events of the run so far.

    Returns:
        ``predicted_gain`` as the method has it at the step that is taken, ``calibration`` by a
        trial on every other batch and by what earlier edits did, ``expected_gain``, which is their
        product, ``step_factor``, and how many selected edits were ``dropped``.
    """
    predicted = gain_at(tried.selected, tried.factor)
    ratio = None if tried.gain is None or not predicted else tried.gain / predicted
    ratio = calibration(history, ratio)
    return {
        "predicted_gain": predicted,
        "calibration": ratio,
        "expected_gain": None if predicted is None else ratio * predicted,
        "step_factor": tried.factor,
        "dropped": tried.dropped,
    }


def gain_at(proposals: Iterable[Proposal], factor: float) -> float | None:
    """What edits should gain together, of which a split's falls with the square of its length.

    Args:
        proposals: The edits.
        factor: What the displacements were multiplied by.

    Returns:
        The sum; None where the method only scores.
    """
    known = list(proposals)
    if all(proposal.score is not None and proposal.gain == 0 for proposal in known):
        return None
    return sum(p.gain * (factor**2 if isinstance(p.edit, Split) else 1.0) for p in known)


Piece = list[Proposal]
"""Proposals that stay or go together."""


def _pieces(selected: Sequence[Proposal], by_group: bool) -> tuple[list[Piece], list[Proposal]]:
    """The prunes, each alone or with all of its group, best first; and everything else."""
    if not by_group:
        prunes = [[one] for one in selected if isinstance(one.edit, Prune)]
        return prunes, [one for one in selected if isinstance(one.edit, Split)]
    groups: dict[str, Piece] = defaultdict(list)
    for one in selected:
        groups[one.edit.group].append(one)
    pruned = [piece for piece in groups.values() if any(isinstance(p.edit, Prune) for p in piece)]
    taken = {id(one) for piece in pruned for one in piece}
    return pruned, [one for one in selected if id(one) not in taken]


def _harmless(trials: EditTrials, pieces: Sequence[Piece], most: float) -> list[Proposal]:
    """As many pieces as leave the loss below a limit: a half that does harm is halved again."""
    kept: list[Proposal] = []
    waiting, left = [list(pieces)] if pieces else [], TRIALS
    while waiting and left:
        now, left = waiting.pop(0), left - 1
        more = [proposal for piece in now for proposal in piece]
        if trials.after([proposal.edit for proposal in [*kept, *more]]) <= most:
            kept += more
        elif len(now) > 1:
            middle = (len(now) + 1) // 2
            waiting = [now[:middle], now[middle:], *waiting]
    return kept
