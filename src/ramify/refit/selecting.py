"""Select the cut within a budget: the best of several selections tried on the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ramify.cost import CostModel
from ramify.errors import RamifyError
from ramify.methods import Proposal, agree
from ramify.probe.loss import Loss
from ramify.refit.balance import in_order_of, raised_floors, resource_of
from ramify.refit.choosing import allowed_by, candidates, choose_channels
from ramify.refit.outcome import Accept, Outcome, outcome_of
from ramify.refit.takeover import Takeover
from ramify.select import Rule
from ramify.select.rounding import Multiple
from ramify.tracing import ChannelGraph

TRIALS = 7
"""The number of cuts that are measured for a budget of the loss."""


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
        accept: the user's own check.
        balance: whether to try other shares and another order too.
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
    accept: Accept | None
    balance: bool

    def best(self, within: Mapping[str, float] | None) -> Outcome:
        """The selection within a budget that loses least, or the only one that is tried.

        Args:
            within: the most that the model may have, by resource; None: all that the rule selects.

        Returns:
            The selection and its outcome.

        Raises:
            RamifyError: the budget is out of reach.
        """
        chosen = self._chosen(within, self.least)
        best = _Tried(self._tried(chosen), chosen)

        def better(selection: Sequence[Proposal]) -> _Tried:
            tried = _Tried(self._tried(selection), selection)
            return min(best, tried, key=lambda one: one.outcome.sample_loss)

        if self.balance and chosen:
            # More equal shares of the layers, then the best shares with Takeover's order in each
            # layer.
            resource = resource_of(within)
            for floor in raised_floors(self.graph, self.proposals, chosen, self.least, resource):
                with suppress(RamifyError):  # the budget is out of reach with these floors
                    best = better(self._chosen(within, floor))
            if self.refit:
                best = better(in_order_of(self.graph, best.chosen, self._takeovers))
        return best.outcome

    def _chosen(
        self, within: Mapping[str, float] | None, floor: Mapping[str, int]
    ) -> list[Proposal]:
        offered = candidates(self.graph, self.proposals, floor)
        pool = offered if self.rule is None else allowed_by(self.rule, self.proposals, offered)
        chosen = choose_channels(
            self.graph,
            offered,
            pool,
            within,
            multiple_of=self.multiple_of,
            alike=self.alike,
        )
        return agree(self.graph, chosen)

    def _tried(self, chosen: Sequence[Proposal]) -> Outcome:
        return outcome_of(
            self.graph,
            [proposal.edit for proposal in chosen],
            self.loss,
            self.sample,
            self.measured_on,
            refit=self.refit,
            accept=self.accept,
        )

    @cached_property
    def _takeovers(self) -> list[Proposal]:
        names = {self.graph[proposal.edit.group].name for proposal in self.proposals}
        return agree(self.graph, Takeover().propose(self.graph, self.loss, self.sample, names))


def smallest(selecting: Selecting, sizes: Mapping[str, float] | None, most: float) -> Outcome:
    """The smallest model with an allowed loss, by bisection over the MACs of measured cuts.

    Args:
        selecting: makes and tries the selections.
        sizes: the other budgets.
        most: the largest mean loss allowed.

    Returns:
        The outcome.

    Raises:
        RamifyError: not even the model that the other budgets allow is good enough.
    """
    now, sizes = CostModel(selecting.graph).cost().macs, sizes or {}
    good = selecting.best(sizes)
    if good.loss > most or not good.accepted:
        allowed = f", where at most {most:.4g} is allowed" if math.isfinite(most) else ""
        raise RamifyError(
            f"the largest model within the other budgets is not accepted; it has a loss of "
            f"{good.loss:.4g}{allowed}: raise a budget, or ask for less"
        )
    small, large = math.log(0.02), math.log(min(1.0, sizes.get("macs", now) / now))
    for _ in range(TRIALS):
        middle = (small + large) / 2
        try:
            found = selecting.best({**sizes, "macs": math.exp(middle) * now})
        except RamifyError:  # no selection is that small
            small = middle
            continue
        if found.loss <= most and found.accepted:
            good, large = found, middle
        else:
            small = middle
    return good
