"""Cutting a selection to a budget of totals: what the growing loop does after its rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ramify.cost import RESOURCES, CostModel, growth
from ramify.edit import Prune
from ramify.errors import RamifyError
from ramify.latency import measure_edited
from ramify.methods import Proposal
from ramify.select.offers import gather
from ramify.trace import ChannelGraph

BUDGETS = (*RESOURCES, "latency")
"""What `fit` can hold a model to."""


def fit(
    proposals: Sequence[Proposal], graph: ChannelGraph, budget: Mapping[str, float]
) -> list[Proposal]:
    """Cut a selection so that the edited model stays within, or comes to be within, a budget.

    Where the model is within the budget, splits are kept as long as they fit, largest value first,
    and prunes with an expected gain; prunes that only have a score are ranked by what is least
    needed, and nothing more needs to go. Where the model is over, splits are left, and prunes are
    taken, those that lose least first, just until it is within, or all if they are too few.

    Args:
        proposals: what a rule selected.
        graph: the traced model.
        budget: the most that the edited model may have, by `params`, `macs`, `flops`, `energy`, or
            `latency` in milliseconds, which is measured on the inputs of the trace.

    Returns:
        The proposals to carry out, largest value first.

    Raises:
        RamifyError: a budget of another name, or no total above 0.
    """
    for name, total in budget.items():
        if name not in BUDGETS:
            raise RamifyError(f"a budget is of {', '.join(BUDGETS)}, and got '{name}'")
        if not (math.isfinite(total) and total > 0):
            raise RamifyError(f"the budget of {name} is a finite total above 0, and got {total}")
    offers = gather(proposals)
    worth = [proposal.value for proposal in offers.proposals]
    sound = offers.spared(offers.ranked(worth, range(len(worth))))
    best = [offers.proposals[number] for number in sound]
    prunes = [proposal for proposal in best if isinstance(proposal.edit, Prune)]
    if not _within(graph, budget)([]):
        return _until(prunes, _within(graph, budget))
    splits = [proposal for proposal in best if not isinstance(proposal.edit, Prune)]
    prunes = [prune for prune in prunes if prune.score is None]
    return _as_many(prunes, splits, graph, budget)


Check = Callable[[Sequence[Proposal]], bool]


def _within(graph: ChannelGraph, budget: Mapping[str, float]) -> Check:
    """Whether the model edited so is within the budget."""
    model = CostModel(graph)
    now = model.cost()

    def check(proposals: Sequence[Proposal]) -> bool:
        edits = [proposal.edit for proposal in proposals]
        added = model.added(edits)
        counted = (name for name in budget if name in RESOURCES)
        if any(now.of(name) + added.of(name) > budget[name] for name in counted):
            return False
        return "latency" not in budget or measure_edited(graph, edits).median <= budget["latency"]

    return check


def _until(prunes: Sequence[Proposal], within: Check) -> list[Proposal]:
    """The fewest of the first prunes that are enough, by bisection; else all of them."""
    low, high = 1, len(prunes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if within(prunes[:middle]) else (middle + 1, high)
    return list(prunes[:high])


def _as_many(
    prunes: list[Proposal],
    splits: Sequence[Proposal],
    graph: ChannelGraph,
    budget: Mapping[str, float],
) -> list[Proposal]:
    """The prunes, and the splits that fit, best first."""
    counted = {name: budget[name] for name in budget if name in RESOURCES}
    model, kept = CostModel(graph), list[Proposal]()
    number, widths = {name: n for n, name in enumerate(model.names)}, model.widths.copy()
    for name, change in growth(prune.edit for prune in prunes).items():
        widths[number[graph[name].name]] += change
    for split in splits:
        place, more = number[graph[split.edit.group].name], sum(growth([split.edit]).values())
        widths[place] += more
        cost = model.cost(widths)
        if all(cost.of(name) <= most for name, most in counted.items()):
            kept.append(split)
        else:
            widths[place] -= more
    if "latency" in budget:  # measured: in as few shapes as bisection takes
        within = _within(graph, {"latency": budget["latency"]})
        low, high = 0, len(kept)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if within([*prunes, *kept[:middle]]) else (low, middle - 1)
        kept = kept[:low]
    return sorted([*prunes, *kept], key=lambda proposal: -proposal.value)
