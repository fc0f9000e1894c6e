"""The knapsack: the most value that several budgets allow, each channel split in the best number.

A binary variable a proposal, at most one of them a channel; costs are those of all edits together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ramify.cost import RESOURCES, Cost, CostModel, growth
from ramify.errors import RamifyError
from ramify.latency import LatencyModel, learn, measure_edited
from ramify.methods import Proposal
from ramify.select.candidates import Offers, gather
from ramify.select.knapsack.additive import Items
from ramify.select.knapsack.branch_and_bound import Shapes, parts_of
from ramify.select.knapsack.latency_steps import filled
from ramify.select.knapsack.local_search import Budgets
from ramify.select.knapsack.value_curve import Curve, Floats, curve
from ramify.select.rounding import Multiple, check_multiple, multiples, pools
from ramify.tracing import ChannelGraph
from ramify.tracing.indexing import Index

TRIES = 4  # shapes that are measured before a latency budget is given up
LINES = 6  # shapes about which the predicted latency is taken for a line
REACH = 16  # channels to both sides that its slope is taken over, or more: across its steps


@dataclass(frozen=True)
class Selection:
    """What a knapsack chose.

    Attributes:
        chosen: the proposals, largest value first.
        value: what they are worth together.
        bound: no selection within the budgets is worth more; with a budget of latency, none within
            the line that stood for the latency at last.
        spent: what the edits add to each resource when they are made together; to the latency, in
            milliseconds, where that has a budget.
    """

    chosen: list[Proposal]
    value: float
    bound: float
    spent: Mapping[str, float] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """How far the value is below the bound, over the larger of both."""
        size = max(abs(self.bound), abs(self.value))
        return (self.bound - self.value) / size if size else 0.0


@dataclass(frozen=True)
class Knapsack:
    r"""The edits of the largest total value within budgets on what they add together.

    .. math:: \max_\beta \sum_i v_i \beta_i \quad \text{with} \quad
              R(\beta) - R(0) \le B_R \text{ for each budget}, \quad \beta_i \in \{0, 1\},

    and at most one edit a channel, so that several proposals for one channel make the number of
    its copies a choice. Proposals that carry a graph are priced as they meet: a convolution
    between two groups that both grow costs more than the sum of both prices. A negative budget
    asks to shrink: the prunes that lose least are taken.

    Args:
        params: the most parameters to add; None for no such budget.
        macs: the most multiply-accumulates to add.
        flops: the most floating-point operations to add.
        energy: the most multiply-accumulates of convolutions and linear layers to add.
        latency: the most milliseconds to add, as measured; takes proposals with a graph. Shapes are
            judged by a model of the latency, and the chosen one is measured.
        multiple_of: what the width of each group becomes a multiple of, where it changes; a number,
            or numbers by group. The best of those selections is looked for. It takes proposals
            with a graph.
        predicted: the model of the latency, of this network in any shape, from
            `ramify.latency.learn`; by default it is learned for each selection.
        exact: up to so many proposals the best selection is searched for by a mixed-integer
            program; above, relaxed selections are rounded, and `Selection.gap` says how far the
            result may be from the best.
        seconds: how long to look for better selections and for a proof; what was found until then
            is within the budgets, and its gap holds. For a budget of latency, in each of its tries.

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
    exact: int = 500
    seconds: float = 6.0
    multiple_of: Multiple = 1
    predicted: LatencyModel | None = None

    def __post_init__(self) -> None:
        if not self.budgets and self.latency is None:
            raise RamifyError(
                "a knapsack takes one budget or more: give params, macs, flops, energy or latency"
            )
        check_multiple(self.multiple_of)
        if not self.seconds > 0:
            raise RamifyError(f"a knapsack takes seconds above 0, and got {self.seconds}")
        for name, budget in {**self.budgets, "latency": self.latency}.items():
            if budget is not None and not math.isfinite(budget):
                raise RamifyError(f"the budget of {name} is a finite number, and got {budget}")

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that are counted, by name."""
        given = ((name, getattr(self, name)) for name in RESOURCES)
        return {name: budget for name, budget in given if budget is not None}

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The chosen proposals, largest value first."""
        return self.solve(proposals).chosen

    def solve(self, proposals: Sequence[Proposal]) -> Selection:
        """The chosen proposals, what they are worth and cost, and how good that is.

        Args:
            proposals: what methods returned for one model.

        Returns:
            The selection; it is within every budget.

        Raises:
            RamifyError: no selection is within the budgets.
        """
        offers = gather(proposals)
        if not offers.proposals:
            return self._nothing()
        if offers.graph is not None:
            return self._solve_shapes(offers)
        if self.latency is not None:
            raise RamifyError(
                "a budget of latency takes proposals that carry the traced model: give each its "
                "graph, or a budget of params, macs, flops or energy"
            )
        multiples(None, self.multiple_of)
        return self._solve_items(offers)

    def _nothing(self) -> Selection:
        """An empty selection, where the budgets allow one."""
        asked = {name: budget for name, budget in self.budgets.items() if budget < 0}
        if asked or (self.latency is not None and self.latency < 0):
            raise RamifyError("a negative budget asks to shrink, and no proposal was given")
        priced = () if self.latency is None else ("latency",)
        return Selection([], 0.0, 0.0, dict.fromkeys((*RESOURCES, *priced), 0))

    # Costs that add up ------------------------------------------------------------------------

    def _solve_items(self, offers: Offers) -> Selection:
        found = offers.proposals
        costs = np.array([[p.cost.of(name) for p in found] for name in self.budgets], dtype=float)
        numbers = {channel: number for number, channel in enumerate(dict.fromkeys(offers.channels))}
        items = Items(
            values=np.array([p.value for p in found]),
            costs=costs,
            budgets=np.array(list(self.budgets.values()), dtype=float),
            pools=np.array([numbers[channel] for channel in offers.channels]),
            prunes=_prunes_of_whole_groups(offers),
        )
        until = time.monotonic() + self.seconds
        chosen, bound = items.solve(len(found) <= self.exact, until)
        if chosen is None and bound > -math.inf:
            raise RamifyError(
                f"no selection within the budgets was found in {self.seconds:g} seconds, though "
                "there may be one: raise seconds or a budget, or propose more prunes"
            )
        if chosen is None:
            least = np.minimum(costs, 0.0).sum(axis=1)
            raise _infeasible(self.budgets, dict(zip(self.budgets, least.tolist(), strict=True)))
        picked = [found[number] for number in chosen]
        spent = {name: sum(p.cost.of(name) for p in picked) for name in RESOURCES}
        return _selection(picked, bound, spent)

    # Costs of shapes --------------------------------------------------------------------------

    def _solve_shapes(self, offers: Offers) -> Selection:
        assert offers.graph is not None
        model = CostModel(offers.graph)
        curves = _curves(offers, model, multiples(offers.graph, self.multiple_of))
        if self.latency is None:
            return self._at_best(offers, model, curves, None)
        return self._solve_latency(offers, model, curves, self.latency)

    def _solve_latency(
        self, offers: Offers, model: CostModel, curves: Mapping[int, Curve], most: float
    ) -> Selection:
        """Within a budget of milliseconds: chosen by the predicted ones, then measured."""
        assert offers.graph is not None
        predicted = (self.predicted or learn(offers.graph)).on(offers.graph)
        now, allowed = measure_edited(offers.graph).median, most
        for _ in range(TRIES):
            selection = self._predicted(offers, model, curves, predicted, allowed)
            edits = [proposal.edit for proposal in selection.chosen]
            added = measure_edited(offers.graph, edits).median - now if edits else 0.0
            if added <= most:
                spent = {**selection.spent, "latency": added}
                return Selection(selection.chosen, selection.value, selection.bound, spent)
            if most > 0:  # too little was predicted here: ask for less
                allowed *= 0.95 * most / added
            else:
                allowed -= 1.5 * (added - most)
        if most < 0:
            raise RamifyError(
                f"no shape was found that is {-most:g} ms faster, as measured: give a "
                "smaller saving, or more proposals to prune"
            )
        return self._nothing()

    def _predicted(
        self,
        offers: Offers,
        model: CostModel,
        curves: Mapping[int, Curve],
        predicted: LatencyModel,
        most: float,
    ) -> Selection:
        """The best shape found that is predicted to add no more than so many milliseconds."""
        # About one shape the latency is taken for a line in the widths; the best shape by that line
        # is where the next line is taken.
        now = predicted.at(model.widths)
        place, least = list(curves), model.widths.copy()
        least[place] += [curve.changes[0] for curve in curves.values()]
        added = predicted.at(least) - now
        if added > most:
            raise _infeasible({"latency": most}, {"latency": added})
        about = least if most < 0 else model.widths
        best, value = least, -math.inf
        for _ in range(LINES):
            slopes = latency_slopes(predicted, about)
            line = most + now - predicted.at(about) + float(slopes @ (about - model.widths))
            line = max(line, float(slopes @ (least - model.widths)))  # the least does fit
            found = self._at_best(offers, model, curves, (slopes, line))
            shape = _shape(model, predicted.graph, found.chosen)
            if predicted.at(shape) - now <= most and found.value > value:
                best, value = shape, found.value
            if (shape == about).all():
                break
            about = shape
        totals = self._totals(model.cost())

        def fits(shapes: Index) -> NDArray[np.bool_]:
            costs = [model.cost(shape) for shape in shapes]
            counted = [all(c.of(name) <= most for name, most in totals.items()) for c in costs]
            return (predicted.at_each(shapes) - now <= most) & np.array(counted)

        best = filled(curves, best, model.widths, fits, time.monotonic() + self.seconds)
        changes = {number: int(best[number] - model.widths[number]) for number in curves}
        picked = [offers.proposals[number] for number in parts_of(curves, changes)]
        bound = max(found.bound, math.fsum(proposal.value for proposal in picked))
        return _selection(picked, bound, _spent(model, picked))

    def _totals(self, now: Cost) -> dict[str, float]:
        """The most that the edited model may have of what is counted."""
        return {name: now.of(name) + budget for name, budget in self.budgets.items()}

    def _at_best(
        self,
        offers: Offers,
        model: CostModel,
        curves: Mapping[int, Curve],
        priced: tuple[np.ndarray, float] | None,
    ) -> Selection:
        now = model.cost()
        totals = self._totals(now)
        for name, total in totals.items():
            if total <= 0:
                raise RamifyError(
                    f"the budget takes {-self.budgets[name]:g} of {name} away, and the model has "
                    f"{now.of(name)}"
                )
        shapes = Shapes(Budgets(model, totals, priced), curves)
        short = shapes.short()
        if short:
            raise _infeasible(
                {name: self.budgets[name] for name in short},
                {name: self.budgets[name] + excess for name, excess in short.items()},
            )
        until = time.monotonic() + self.seconds
        changes, bound = shapes.solve(len(offers.proposals) <= self.exact, until)
        if changes is None:
            raise RamifyError(
                "no selection is within the budget of latency, by the price of each group: raise "
                "it, or propose more prunes"
            )
        picked = [offers.proposals[number] for number in parts_of(curves, changes)]
        return _selection(picked, bound, _spent(model, picked))


def _spent(model: CostModel, picked: Sequence[Proposal]) -> dict[str, float]:
    added = model.added([proposal.edit for proposal in picked])
    return {name: added.of(name) for name in RESOURCES}


def _shape(model: CostModel, graph: ChannelGraph, chosen: Sequence[Proposal]) -> Index:
    """The widths (W,) after the chosen edits."""
    shape = model.widths.copy()
    for name, more in growth(proposal.edit for proposal in chosen).items():
        shape[model.names.index(graph[name].name)] += more
    return shape


def latency_slopes(predicted: LatencyModel, widths: Index) -> Floats:
    """What one more channel of each group adds to the predicted latency about a shape (W,)."""
    reach = np.maximum(widths // 4, REACH)
    low = np.maximum(widths - reach, 1)
    steps = np.diag(reach)
    more = predicted.at_each(widths + steps)
    less = predicted.at_each(widths - np.diag(widths - low))
    return np.maximum((more - less) / (widths + reach - low), 0.0)


def _curves(offers: Offers, model: CostModel, asked: Mapping[str, int]) -> dict[int, Curve]:
    """The curve of each group that is proposed, by its number in the cost model."""
    worth = [proposal.value for proposal in offers.proposals]
    place = {name: number for number, name in enumerate(model.names)}
    return {
        place[name]: curve(pools(offers, own, worth), offers.widths[name], asked.get(name, 1))
        for name, own in offers.by_group(range(len(worth))).items()
    }


def _prunes_of_whole_groups(offers: Offers) -> list[np.ndarray]:
    prunes = [number for number in range(len(offers.proposals)) if offers.prunes(number)]
    whole = [
        numbers
        for name, numbers in offers.by_group(prunes).items()
        if len({offers.channels[number] for number in numbers}) >= offers.widths[name]
    ]
    return [np.array(numbers) for numbers in whole]


def _selection(picked: Sequence[Proposal], bound: float, spent: Mapping[str, float]) -> Selection:
    chosen = sorted(picked, key=lambda proposal: -proposal.value)
    value = math.fsum(proposal.value for proposal in chosen)
    close = max(abs(bound), abs(value)) * 1e-6  # what the solver's tolerances cannot tell apart
    return Selection(chosen, value, value if bound <= value + close else bound, spent)


def _infeasible(budgets: Mapping[str, float], least: Mapping[str, float]) -> RamifyError:
    seen = ", ".join(
        f"{name} by {budgets[name]:g} where all prunes together reach {least[name]:g}"
        for name in budgets
    )
    return RamifyError(
        f"no selection is within the budgets, which change {seen}: raise a budget, or propose more "
        "prunes"
    )
