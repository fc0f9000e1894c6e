"""The knapsack: the largest total value within budgets, with the best number of copies each.

There is one binary variable per proposal, with at most one set per channel; costs are those of all
edits together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ramify.arguments import check_settings
from ramify.cost import RESOURCES, CostModel
from ramify.errors import OutOfReach, RamifyError, in_digits
from ramify.latency import LatencyModel, learn, measure_edited
from ramify.methods import Proposal
from ramify.methods.aliases import accepts_old_keywords
from ramify.select.candidates import Candidates, gather
from ramify.select.knapsack.additive import AdditiveKnapsack
from ramify.select.knapsack.latency_budget import best_predicted
from ramify.select.knapsack.limit import Limit
from ramify.select.knapsack.problem import Budgets, WidthChoices
from ramify.select.knapsack.widths import best_widths
from ramify.select.rounding import Multiple, check_multiple, multiples
from ramify.tracing import ChannelGraph
from ramify.tracing.indexing import Floats, Index

TRIES = 6  # the most shapes measured for a latency budget
NEAR = 0.03  # a shape below the latency budget by less than this share of the total is accepted


@dataclass(frozen=True)
class Selection:
    """The selection of a knapsack.

    Attributes:
        chosen: the proposals, largest value first.
        value: their total value.
        bound: an upper bound on the value of any selection within the budgets; with a latency
            budget, of any selection within the last linear approximation of the latency.
        spent: what the edits together add to each resource, including the latency in milliseconds
            where that has a budget.

    Example:
        >>> selection = Selection([], value=9.0, bound=10.0)
        >>> selection.gap  # the best value may be a tenth higher
        0.1
    """

    chosen: list[Proposal]
    value: float
    bound: float
    spent: Mapping[str, float] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """The distance of the value from the bound, relative to the larger of both."""
        size = max(abs(self.bound), abs(self.value))
        return (self.bound - self.value) / size if size else 0.0


@accepts_old_keywords(exact="exact_up_to")
@dataclass(frozen=True)
class Knapsack:
    r"""The edits of the largest total value whose total added cost is within budgets.

    .. math:: \max_\beta \sum_i v_i \beta_i \quad \text{with} \quad
              R(\beta) - R(0) \le B_R \text{ for each budget}, \quad \beta_i \in \{0, 1\},

    and at most one edit per channel, so that several proposals for one channel let the knapsack
    choose its number of copies. Proposals with a graph are priced together: a convolution between
    two groups that both grow costs more than the sum of both prices. With a negative budget the
    network must shrink, and the prunes that lose least are taken.

    Args:
        params: the most parameters to add; None for no such budget.
        macs: the most multiply-accumulates to add.
        flops: the most floating-point operations to add.
        energy: the most multiply-accumulates of convolutions and linear layers to add.
        latency: the most milliseconds to add, as measured; needs proposals with a graph. Shapes are
            chosen by a latency model, and the chosen shape is measured; others are tried until one
            fills the budget.
        multiple_of: the number that the width of each changed group becomes a multiple of; one
            number, or numbers by group. The best such selection is searched for. Needs proposals
            with a graph.
        predicted: the latency model of this network, from `ramify.latency.learn`; by default it is
            learned for each selection.
        exact_up_to: the number of proposals up to which a mixed-integer program finds the best
            selection and proves it. For more, the solution of a linear program is rounded and
            improved by local search, and `Selection.gap` bounds its distance from the best.
        seconds: the time limit for better selections and for a proof; what is found by then is
            within the budgets, and its gap holds. With a latency budget it applies to each try.
        steps: the number of pairs of groups to compare (or nodes of the exact program to visit),
            used instead of the time limit, so that a selection does not depend on how busy the
            machine is. Needs proposals with a graph.
        milliseconds: the current latency of the network, if measured already: the latency budget is
            counted from it, so that both use the same measurement. By default it is measured for
            each selection.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> graph = ramify.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> proposals = [
        ...     ramify.Proposal(ramify.Split("0", n), gain, ramify.cost.Cost(7, 6), graph=graph)
        ...     for n, gain in enumerate([0.1, 0.4, 0.3, 0.2])
        ... ]
        >>> selection = ramify.Knapsack(params=20).solve(proposals)
        >>> [p.edit.channel for p in selection.chosen], selection.spent["params"], selection.gap
        ([1, 2], 14, 0.0)

    Source: S3D, Appendix C.1; D. Wang and others, "Energy-aware neural architecture optimization
    with fast splitting steepest descent", 2019.
    """

    params: float | None = None
    macs: float | None = None
    flops: float | None = None
    energy: float | None = None
    latency: float | None = None
    exact_up_to: int = 500
    seconds: float = 6.0
    multiple_of: Multiple = 1
    predicted: LatencyModel | None = None
    steps: int | None = None
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        check_multiple(self.multiple_of)
        check_settings(self)
        if not self.budgets and self.latency is None:
            raise RamifyError(
                "a knapsack needs at least one budget: give params, macs, flops, energy or latency"
            )
        if not self.seconds > 0:
            raise RamifyError(f"seconds must be above 0, but got {self.seconds}")
        if self.steps is not None and self.steps < 1:
            raise RamifyError(f"steps must be at least 1, but got {self.steps}")
        for name, budget in {**self.budgets, "latency": self.latency}.items():
            if budget is not None and not math.isfinite(budget):
                raise RamifyError(f"the budget of {name} must be finite, but got {budget}")

    @property
    def exact(self) -> int:
        """The old name of `exact_up_to`."""
        return self.exact_up_to

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets of counted resources, by name."""
        given = ((name, getattr(self, name)) for name in RESOURCES)
        return {name: budget for name, budget in given if budget is not None}

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The chosen proposals, largest value first."""
        return self.solve(proposals).chosen

    def solve(self, proposals: Sequence[Proposal]) -> Selection:
        """The chosen proposals, their value and cost, and the bound on the value.

        Args:
            proposals: what methods returned for one model.

        Returns:
            The selection; it is within every budget.

        Raises:
            RamifyError: proposals without a graph, which this budget or these settings need.
            OutOfReach: no selection is within the budgets.
        """
        candidates = gather(proposals)
        if not candidates.proposals:
            return self._nothing()
        if candidates.graph is not None:
            return self._solve_widths(candidates, candidates.graph)
        if self.latency is not None:
            raise RamifyError(
                "a budget of latency takes proposals that carry the traced model: give each its "
                "graph, or a budget of params, macs, flops or energy"
            )
        if self.steps is not None:
            raise RamifyError(
                "steps take proposals that carry the traced model: give each its graph, or seconds"
            )
        multiples(None, self.multiple_of)
        return self._solve_additive(candidates)

    def _nothing(self) -> Selection:
        """An empty selection, where the budgets allow one."""
        asked = {name: budget for name, budget in self.budgets.items() if budget < 0}
        if asked or (self.latency is not None and self.latency < 0):
            raise OutOfReach("a negative budget means shrinking, but no proposal was given")
        timed = () if self.latency is None else ("latency",)
        return Selection([], 0.0, 0.0, dict.fromkeys((*RESOURCES, *timed), 0))

    def _exactly(self, candidates: Candidates) -> bool:
        return len(candidates.proposals) <= self.exact_up_to

    # Additive costs ---------------------------------------------------------------------------

    def _solve_additive(self, candidates: Candidates) -> Selection:
        found = candidates.proposals
        costs = np.array([[p.cost.of(name) for p in found] for name in self.budgets], dtype=float)
        number = {channel: n for n, channel in enumerate(dict.fromkeys(candidates.channels))}
        knapsack = AdditiveKnapsack(
            values=np.array([p.value for p in found]),
            costs=costs,
            budgets=np.array(list(self.budgets.values()), dtype=float),
            channels=np.array([number[channel] for channel in candidates.channels]),
            prunes=_prunes_of_whole_groups(candidates),
        )
        until = time.monotonic() + self.seconds
        chosen, bound = knapsack.solve(self._exactly(candidates), until)
        if chosen is None and bound > -math.inf:
            raise OutOfReach(
                f"no selection within the budgets was found in {self.seconds:g} seconds, though "
                "there may be one: raise seconds or a budget, or propose more prunes"
            )
        if chosen is None:
            least = np.minimum(costs, 0.0).sum(axis=1)
            raise _infeasible(self.budgets, dict(zip(self.budgets, least.tolist(), strict=True)))
        picked = [found[number] for number in chosen]
        spent = {name: sum(p.cost.of(name) for p in picked) for name in RESOURCES}
        return _selection(picked, bound, spent)

    # Costs of whole shapes --------------------------------------------------------------------

    def _solve_widths(self, candidates: Candidates, graph: ChannelGraph) -> Selection:
        model = CostModel(graph)
        budgets = self._totals(model)
        choices = WidthChoices(candidates, model, multiples(graph, self.multiple_of))
        self._check_narrowest(choices, budgets)
        exact = self._exactly(candidates)

        def solve(line: tuple[Floats, float] | None) -> tuple[Index, float]:
            limit = Limit(until=time.monotonic() + self.seconds)
            if self.steps is not None:
                limit = Limit(steps=self.steps)
            return best_widths(choices, replace(budgets, line=line), exact, limit)

        def selection(widths: Index, bound: float) -> Selection:
            picked = [candidates.proposals[number] for number in choices.proposals(widths)]
            added = model.added([proposal.edit for proposal in picked])
            spent = {name: added.of(name) for name in RESOURCES}
            return _selection(picked, bound, spent)

        # Without a latency budget, one problem of counted costs.
        if self.latency is None:
            choice, bound = solve(None)
            return selection(choices.all_widths(choice), bound)

        # With one, widths are chosen by their predicted latency, and then measured.
        predicted = (self.predicted or learn(graph)).on(graph)
        fastest = predicted.at(choices.all_widths(choices.start)) - predicted.at(model.widths)

        def best(most: float) -> Selection:
            return selection(
                *best_predicted(choices, budgets, predicted, most, solve, self.seconds)
            )

        narrowest = selection(choices.all_widths(choices.start), math.inf)
        return self._measured(graph, best, (fastest, narrowest), self.latency)

    def _totals(self, model: CostModel) -> Budgets:
        """The most that the edited model may have of each counted resource."""
        now = model.cost()
        totals = {name: now.of(name) + budget for name, budget in self.budgets.items()}
        for name, total in totals.items():
            if total <= 0:
                raise OutOfReach(
                    f"the budget removes {-self.budgets[name]:,.12g} {name}, but the model has "
                    f"only {now.of(name):,}"
                )
        return Budgets(model, totals)

    def _check_narrowest(self, choices: WidthChoices, budgets: Budgets) -> None:
        """Refuse budgets that the narrowest widths exceed; costs rise with widths, so all do."""
        cost = budgets.model.cost(choices.all_widths(choices.start))
        over = {name: cost.of(name) - total for name, total in budgets.totals.items()}
        short = {name: self.budgets[name] for name, excess in over.items() if excess > 0}
        if short:
            raise _infeasible(short, {name: short[name] + over[name] for name in short})

    def _measured(
        self,
        graph: ChannelGraph,
        best: Callable[[float], Selection],
        least: tuple[float, Selection],
        most: float,
    ) -> Selection:
        """The best selection found whose measured latency is within a budget of milliseconds.

        Predictions have some relative error, so the first shape may be over the budget or far below
        it. Others are tried until one fills it, and the narrowest if none is within it.

        Args:
            graph: the traced model.
            best: gives the best selection that adds at most some milliseconds, as predicted.
            least: the predicted added milliseconds of the narrowest widths, and their selection.
            most: the budget.

        Returns:
            The selection of the largest value; for budgets to grow, an empty one if none fits.

        Raises:
            OutOfReach: a budget asks to shrink and no selection is within all of them.
        """
        now = self.milliseconds
        if now is None:
            now = measure_edited(graph).median
        tried: list[tuple[float, float]] = []
        within: list[Selection] = []

        def added_by(selection: Selection) -> float:
            edits = [proposal.edit for proposal in selection.chosen]
            added = measure_edited(graph, edits).median - now if edits else 0.0
            if added <= most:
                within.append(replace(selection, spent={**selection.spent, "latency": added}))
            return added

        # Ask for a predicted latency, measure the selection, and ask again for more or less.
        fastest, narrowest = least
        asked, bound = max(most, fastest), math.inf
        while len(tried) < TRIES and asked not in (ask for ask, _ in tried):
            selection = best(asked)
            bound, added = selection.bound, added_by(selection)
            tried.append((asked, added))
            full = most - NEAR * (now + most) <= added <= most
            if full or (most > 0 and not selection.chosen):
                break
            asked = max(_next_asked(tried, most, NEAR / 2 * (now + most)), fastest)
            asked = min(asked, 0.0) if most < 0 else asked
        # The best selection that was measured within the budget; else the narrowest widths.
        if within:
            return max(within, key=lambda one: one.value)
        if most >= 0 and min(self.budgets.values(), default=0) >= 0:
            return self._nothing()
        added = added_by(replace(narrowest, bound=bound))
        if within:
            return within[0]
        raise OutOfReach(
            f"no shape within the budgets was found that adds at most {in_digits(most)} ms, as "
            f"measured; all prunes together add {in_digits(added)} ms: raise a budget, or propose "
            "more prunes"
        )


def _next_asked(tried: Sequence[tuple[float, float]], most: float, spare: float) -> float:
    """The next prediction to ask for, so that the measured latency fills a budget.

    Args:
        tried: (prediction asked for, measured), all in added milliseconds.
        most: the budget.
        spare: how far below the budget to aim.

    Returns:
        The milliseconds to ask for: where there are measurements below and above the budget,
        between the nearest two.
    """
    below = max((pair for pair in tried if pair[1] <= most), default=None)
    above = min((pair for pair in tried if pair[1] > most), default=None)
    if below is None and above is not None:  # the prediction was too low: ask for less
        asked, added = above
        return asked * 0.95 * most / added if most > 0 else asked - 1.5 * (added - most)
    assert below is not None
    if above is None:
        return below[0] + most - spare - below[1]
    share = (most - spare - below[1]) / (above[1] - below[1])
    return below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0])


def _prunes_of_whole_groups(candidates: Candidates) -> list[Index]:
    """For each group whose channels all have a prune, the numbers of these prunes."""
    numbers = range(len(candidates.proposals))
    prunes = [number for number in numbers if candidates.is_prune(number)]
    return [
        np.array(own)
        for name, own in candidates.by_group(prunes).items()
        if len({candidates.channels[number] for number in own}) >= candidates.widths[name]
    ]


def _selection(picked: Sequence[Proposal], bound: float, spent: Mapping[str, float]) -> Selection:
    chosen = sorted(picked, key=lambda proposal: -proposal.value)
    value = math.fsum(proposal.value for proposal in chosen)
    close = max(abs(bound), abs(value)) * 1e-6  # within the solver's tolerances
    return Selection(chosen, value, value if bound <= value + close else bound, spent)


def _infeasible(budgets: Mapping[str, float], least: Mapping[str, float]) -> OutOfReach:
    reached = {name: f"where all prunes together reach {in_digits(least[name])}" for name in least}
    seen = ", ".join(f"{name} by {in_digits(budgets[name])} {reached[name]}" for name in budgets)
    return OutOfReach(
        f"no selection is within the budgets, which change {seen}: raise a budget, or propose more "
        "prunes"
    )
