"""Trial of a selection of edits: measured as a whole, then kept, shortened, reduced or dropped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import filterfalse
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
"""The largest relative rise of the loss in a trial: half of the 0.1 % allowed for an edit.

The other half is for later changes, such as restored kernel norms when a norm's ε matters.
"""
SHORTEST = 1 / 64
"""The smallest factor of a method's displacements; identical copies would never diverge."""
TRIALS = 16
"""The most trials to find which prunes raise the loss."""
HELD = 1024
"""The number of training samples that judge edits if no batches are given."""


@dataclass(frozen=True)
class Tried:
    """What remains of a selection after its trial.

    Attributes:
        selected: The selected proposals that are kept.
        edits: The edit for each of them, with shortened displacements; or block edits instead.
        factor: The factor by which the displacements of splits were multiplied.
        dropped: How many selected proposals were dropped.
        gain: How much the kept edits lowered the mean loss on every other judging batch; None if
            nothing was tried.
    """

    selected: Sequence[Proposal]
    edits: Sequence[Edit | BlockEdit]
    factor: float = 1.0
    dropped: int = 0
    gain: float | None = None


class EditTrials:
    """Measures the mean loss after edits, which are made on the network itself and undone.

    Before and after an edit, the running statistics of batch norms are recomputed on these batches:
    training would soon do the same, and the statistics of a displaced copy differ from those of
    the channel that it was split from. The batches stay in memory.

    Args:
        graph: The graph of the network, whose statistics are recomputed.
        loss: ``loss(model, batch)``, one loss a sample, shape (S,).
        batches: The batches to measure on.
        most: Stop taking batches once they hold this many samples; None for all.

    Raises:
        RamifyError: There is no batch.
    """

    def __init__(
        self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any], most: int | None = None
    ) -> None:
        self.graph, self.loss = graph, loss
        self.held: list[Any] = []
        self._several: list[Any] = []  # a batch norm cannot compute statistics from one sample
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
        """The mean loss after edits, a huge number if it is not finite."""
        with edited(self.graph, edits):
            return self._measured(self._finite)

    def settle(self, *, strict: bool = True) -> float:
        """Recompute the network's statistics on these batches, and measure its loss.

        Args:
            strict: Whether a loss that is not finite is an error; otherwise it is a huge number.

        Returns:
            The mean loss.
        """
        return self._measured(self.loss if strict else self._finite)

    @property
    def gain_on_some(self) -> float:
        """How much the last trial lowered the mean loss on every other batch."""
        return self._some_before - self._some

    def undo(self) -> None:
        """Restore the statistics that the network had originally; it was not edited."""
        for buffer, value in self._buffers:
            buffer.copy_(value)

    def _measured(self, loss: Loss) -> float:
        if self.held:  # otherwise the next line raises because there are no batches
            recompute_statistics(self.graph.model, loss, self._several or self.held)
        model, halves = self.graph.model, (self.held[::2], self.held[1::2])
        means = [mean_loss(model, loss, part) for part in halves if part or part is halves[0]]
        weighted = zip(means, self._samples, strict=False)
        mean = sum(one * count for one, count in weighted) / sum(self._samples)
        # Ranks may compute results that differ in the last bit, and decisions depend on them.
        mean, self._some = distributed.broadcast((mean, means[0]))
        return float(mean)

    def _finite(self, model: nn.Module, batch: Any) -> Tensor:
        values = self.loss(model, batch)
        wide = values.to(torch.promote_types(values.dtype, torch.float32))  # 1e30 is no float16
        return torch.nan_to_num(wide, nan=torch.inf).clamp_max(1e30)


def try_edits(
    trials: EditTrials,
    selected: Sequence[Proposal],
    fitted: Callable[[Sequence[Proposal]], Sequence[Proposal]],
    *,
    by_group: bool = False,
) -> Tried:
    """Reduce a selection until it raises the loss by no more than `TOLERANCE`, relatively.

    The whole selection is tried first. If it raises the loss, harmful prunes are found by bisection
    and dropped. The rest is fitted into the budget again, since prunes free some of it. Splits are
    shortened by halves until the loss no longer rises, and dropped if `SHORTEST` is still too long.

    Args:
        trials: The trials on the present network.
        selected: The proposals that a rule selected.
        fitted: Brings a selection within the budget.
        by_group: Whether the edits of a group are kept or dropped together, as required if widths
            must be multiples of a number.

    Returns:
        What remains of the selection.
    """
    rise = TOLERANCE * abs(trials.before)
    if trials.after([proposal.edit for proposal in selected]) <= trials.before + rise:
        edits = [proposal.edit for proposal in selected]
        return Tried(selected, edits, gain=trials.gain_on_some)
    # If there are splits too, prunes may use only half of the tolerance.
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
    if edits:  # the last trial included more edits than these
        trials.after(edits)
    return Tried(harmless, edits, 1.0, len(selected) - len(harmless), trials.gain_on_some)


def shortened(edit: Edit, factor: float) -> Edit:
    """An edit with its displacements multiplied by a factor; a prune has none."""
    if isinstance(edit, Prune):
        return edit
    return replace(edit, offsets={name: factor * part for name, part in edit.offsets.items()})


def foretold(tried: Tried, history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of the history about the predictions of a trial.

    Args:
        tried: The edits that are made.
        history: The events of the run so far.

    Returns:
        ``predicted_gain``, the method's prediction at the shortened step; ``calibration``, from a
        trial on every other batch and from earlier edits; ``expected_gain``, their product;
        ``first_step_gain``, the first-order gain of the first gradient step of new neurons, which
        have no outgoing weights yet; ``step_factor``; and ``dropped``, the number of selected edits
        that were dropped.
    """
    predicted = gain_at(tried.selected, tried.factor)
    ratio = None if tried.gain is None or not predicted else tried.gain / predicted
    ratio = calibration(history, ratio)
    return {
        "predicted_gain": predicted,
        "calibration": ratio,
        "expected_gain": None if predicted is None else ratio * predicted,
        "first_step_gain": _total(filterfalse(_at_once, tried.selected), tried.factor),
        "step_factor": tried.factor,
        "dropped": tried.dropped,
    }


def gain_at(proposals: Iterable[Proposal], factor: float) -> float | None:
    """The sum of the gains predicted for the edits themselves.

    That of a split scales with the square of its displacement. New neurons, which have no outgoing
    weights yet, are left out: their gain comes with the training after the edit.

    Args:
        proposals: The edits.
        factor: The factor by which the displacements were multiplied.

    Returns:
        The sum; None if the method only gives scores, or all edits are new neurons.
    """
    return _total(filter(_at_once, proposals), factor)


def _total(proposals: Iterable[Proposal], factor: float) -> float | None:
    """The sum of gains that fall with the square of the displacement; None if there are none."""
    known = list(proposals)
    if all(proposal.score is not None and proposal.gain == 0 for proposal in known):
        return None
    return sum(p.gain * (factor**2 if isinstance(p.edit, Split) else 1.0) for p in known)


def _at_once(proposal: Proposal) -> bool:
    """Whether the gain of a proposal comes with the edit, and not with later training."""
    return not isinstance(proposal.edit, Split) or not proposal.edit.adds_neurons


Piece = list[Proposal]
"""Proposals that are kept or dropped together."""


def _pieces(selected: Sequence[Proposal], by_group: bool) -> tuple[list[Piece], list[Proposal]]:
    """The prunes, alone or with all edits of their group, best first; and the other proposals."""
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
    """As many pieces as keep the loss below a limit, found by bisection."""
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
