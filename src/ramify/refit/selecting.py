"""Select the cut within a budget: the best of several selections tried on the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from ramify import distributed
from ramify.cost import CostModel
from ramify.edit import Edit
from ramify.errors import Diverged, OutOfReach, RamifyError
from ramify.methods import Proposal, agree
from ramify.methods.proposal import Method
from ramify.probe.loss import Loss, first_complex, least_loss, mean_loss
from ramify.refit.balance import in_order_of, raised_floors, resource_of
from ramify.refit.choosing import Timing, allowed_by, candidates, choose_channels, comparable
from ramify.refit.outcome import Accept, Outcome, is_accepted, outcome_of
from ramify.refit.takeover import Takeover, proposed
from ramify.select import Rule
from ramify.select.rounding import Multiple
from ramify.tracing import ChannelGraph

TRIALS = 7
"""The number of cuts that are measured for a budget of the loss."""

HARMLESS = 0.01
"""The largest share of what the model has learned that a harmless cut takes. After one, no other
selection is tried."""
GROWN = 0.25
"""A cut that raises the loss by more than this share of itself is not harmless either, as in a
precise regression, if the rise is clear."""
CLEAR = 4.0
"""The number of standard errors of a clear rise. A classifier that is sure of almost all samples
has a small loss too, but a few samples make it up, and they cannot tell one selection from another.
"""


class _Tried(NamedTuple):
    """A selection and its outcome."""

    outcome: Outcome
    chosen: Sequence[Proposal]


@dataclass(frozen=True)
class Selecting:
    """Selections of prunes, tried on a model that is left unchanged.

    Attributes:
        graph: the traced model.
        loss: `loss(model, batch)` -> (S,).
        sample: the batches to choose the channels on, and to refit on.
        measured_on: the batches to report the loss on.
        proposals: all prunes that a method proposes, with comparable values.
        least: the floor of each group.
        rule: the rule that decides which prunes are allowed.
        multiple_of: the number that widths become multiples of.
        alike: patterns of groups that keep equal widths.
        refit: whether to refit the remaining weights.
        method: the method that made the proposals.
        constant: the mean loss of a model that ignores its input; infinity if unknown.
        balance: whether to try other shares and another order too; None: unless the method is
            Takeover and its own selection is known to be harmless.
    """

    graph: ChannelGraph
    loss: Loss
    sample: Sequence[Any]
    measured_on: Sequence[Any]
    proposals: Sequence[Proposal]
    least: Mapping[str, int]
    rule: Rule | None
    multiple_of: Multiple
    alike: Sequence[str]
    refit: bool
    method: Method
    constant: float
    balance: bool | None

    def best(
        self,
        within: Mapping[str, float] | None,
        enough: Callable[[Outcome], bool] = lambda _: False,
    ) -> Outcome:
        """The selection within a budget that loses least, or the only one that is tried.

        Args:
            within: the most that the model may have, by resource; None: all that the rule selects.
            enough: whether the outcome of the method's own selection is good enough that no other
                is tried. Otherwise the loss alone decides: of several, one may pass a check on few
                samples by luck.

        Returns:
            The selection and its outcome.

        Raises:
            OutOfReach: the budget is out of reach.
            Diverged: no selection has a finite loss.
        """
        chosen, refused = self._choice(self.proposals, within, self.least)
        if refused is not None:
            raise refused
        seen, diverged = set[frozenset[Edit]](), list[Diverged]()

        def better(best: _Tried | None, selection: Sequence[Proposal]) -> _Tried | None:
            edits = frozenset(proposal.edit for proposal in selection)
            # Without a budget, fewer channels lose less, and are not what the rule selects.
            if edits in seen or (within is None and len(edits) < len(chosen)):
                return best
            seen.add(edits)
            try:
                tried = _Tried(self._outcome(selection), selection)
            except Diverged as error:  # the loss after this cut is not finite
                diverged.append(error)
                return best
            kept = best is not None and best.outcome.sample_loss <= tried.outcome.sample_loss
            return best if kept else tried

        best = better(None, chosen)
        if best is not None and (not chosen or enough(best.outcome)):
            return best.outcome
        if self._worth_more(None if best is None else best.outcome):
            for selection in self._further(within, chosen):
                best = better(best, selection)
            real = first_complex(self.graph.model) is None
            if best is not None and self.refit and real and not isinstance(self.method, Takeover):
                # The best shares with Takeover's order in each layer.
                best = better(best, in_order_of(self.graph, best.chosen, self._others))
        if best is None:
            raise self._no_finite_loss(diverged[0])
        return best.outcome

    def _no_finite_loss(self, first: Diverged) -> Diverged:
        """The error that no selection has a finite loss, unless the model itself has none."""
        mean_loss(self.graph.model, self.loss, self.measured_on)
        return Diverged(
            f"the cut model has a loss that is not finite ({str(first).split(':')[0]}): give a "
            "larger budget, or a loss that is finite whatever the model returns"
        )

    def _further(
        self, within: Mapping[str, float] | None, chosen: Sequence[Proposal]
    ) -> Iterator[Sequence[Proposal]]:
        """More equal shares of all layers; if the method is Takeover, for both curvatures."""
        yield from self._more_equal(self.proposals, within, chosen)
        if isinstance(self.method, Takeover) and self._has_residuals:
            again, refused = self._choice(self._others, within, self.least)
            if refused is None:
                yield again
                yield from self._more_equal(self._others, within, again)

    def _more_equal(
        self,
        proposals: Sequence[Proposal],
        within: Mapping[str, float] | None,
        chosen: Sequence[Proposal],
    ) -> Iterator[Sequence[Proposal]]:
        """Selections under floors that rise towards equal shares of all layers."""
        resource = resource_of(within)
        for floor in raised_floors(self.graph, proposals, chosen, self.least, resource):
            selection, refused = self._choice(proposals, within, floor)
            if refused is None:  # the budget is within reach with these floors
                yield selection

    def _worth_more(self, outcome: Outcome | None) -> bool:
        """Whether others are tried after a selection with this outcome; None: no finite loss."""
        if self.balance is not None or not isinstance(self.method, Takeover) or outcome is None:
            return self.balance is not False
        rise = outcome.sample_loss - outcome.start
        # Where it is not known how much was learned, only a cut that costs nothing is harmless.
        learned = self.constant - outcome.start if math.isfinite(self.constant) else 0.0
        if not rise <= HARMLESS * max(learned, 0.0):
            return True
        return rise > CLEAR * outcome.error and rise > GROWN * outcome.start >= 0

    def _choice(
        self,
        proposals: Sequence[Proposal],
        within: Mapping[str, float] | None,
        floor: Mapping[str, int],
    ) -> tuple[list[Proposal], OutOfReach | None]:
        """The selection of rank 0, and its error if the budget is out of reach."""
        chosen, refused = list[Proposal](), None
        try:
            offered = candidates(self.graph, proposals, floor)
            pool = offered if self.rule is None else allowed_by(self.rule, proposals, offered)
            chosen = choose_channels(
                self.graph,
                offered,
                pool,
                within,
                multiple_of=self.multiple_of,
                alike=self.alike,
                timing=self._timing,
            )
        except OutOfReach as error:
            refused = error
        # With a budget of measured milliseconds, the other ranks may find another answer.
        refused = distributed.broadcast(refused)
        return agree(self.graph, chosen), refused

    def _outcome(self, chosen: Sequence[Proposal]) -> Outcome:
        return outcome_of(
            self.graph,
            [proposal.edit for proposal in chosen],
            self.loss,
            self.sample,
            self.measured_on,
            refit=self.refit,
        )

    @cached_property
    def _timing(self) -> Timing:
        return Timing(self.graph)

    @cached_property
    def _has_residuals(self) -> bool:
        """Whether no loss is negative, so that Takeover has another curvature."""
        return least_loss(self.graph.model, self.loss, self.sample) >= 0

    @cached_property
    def _others(self) -> list[Proposal]:
        """The same channels by Takeover with the other curvature, or by Takeover."""
        own = self.method
        other = (
            replace(own, residuals=not own.residuals) if isinstance(own, Takeover) else Takeover()
        )
        names = {self.graph[proposal.edit.group].name for proposal in self.proposals}
        found = agree(self.graph, proposed(other, self.graph, self.loss, self.sample, names))
        return [each for each in comparable(found) if self.graph[each.edit.group].name in names]


def smallest(
    selecting: Selecting,
    sizes: Mapping[str, float] | None,
    most: float,
    accept: Accept | None = None,
) -> Outcome:
    """The smallest model with an allowed loss, by bisection over the MACs of measured cuts.

    Args:
        selecting: makes and tries the selections.
        sizes: the other budgets.
        most: the largest mean loss allowed.
        accept: the user's own check, called at most once for each selection whose answer counts.

    Returns:
        The outcome.

    Raises:
        RamifyError: not even the model that the other budgets allow is good enough.
    """
    now, sizes = CostModel(selecting.graph).cost().macs, sizes or {}
    graph, answers = selecting.graph, dict[tuple[Edit, ...], bool]()

    def fine(outcome: Outcome) -> bool:
        if outcome.edits not in answers:
            answers[outcome.edits] = outcome.loss <= most and (
                accept is None or is_accepted(graph, outcome, accept)
            )
        return answers[outcome.edits]

    good = selecting.best(sizes, fine)
    if not fine(good):
        allowed = f", where at most {most:.4g} is allowed" if math.isfinite(most) else ""
        raise RamifyError(
            f"the largest model within the other budgets is not accepted; it has a loss of "
            f"{good.loss:.4g}{allowed}: raise a budget, or ask for less"
        )
    small, large = math.log(0.02), math.log(min(1.0, sizes.get("macs", now) / now))
    for _ in range(TRIALS):
        middle = (small + large) / 2
        try:
            found = selecting.best({**sizes, "macs": math.exp(middle) * now}, fine)
        except (OutOfReach, Diverged):  # no selection is that small, or none has a finite loss
            small = middle
            continue
        if fine(found):
            good, large = found, middle
        else:
            small = middle
    return good
