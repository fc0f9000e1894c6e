"""Reduce a selection to a budget for the edited model."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from ramify.arguments import check_kind, is_number
from ramify.cost import RESOURCES, CostModel
from ramify.errors import RamifyError
from ramify.latency import measure_edited
from ramify.methods import Proposal
from ramify.select.candidates import Candidates, gather
from ramify.select.fit_steps import FitStep, added, on_multiples, prune_steps, split_steps
from ramify.select.rounding import Multiple, check_multiple, multiples
from ramify.tracing import ChannelGraph

BUDGETS = (*RESOURCES, "latency")
"""The resources that `fit` takes budgets of."""


def fit(
    proposals: Sequence[Proposal],
    graph: ChannelGraph,
    budget: Mapping[str, float],
    *,
    multiple_of: Multiple = 1,
) -> list[Proposal]:
    """Reduce a selection so that the edited model is within a budget.

    If the model is within the budget, `fit` keeps the splits that fit, largest value first, and
    prunes with an expected gain; it makes no prunes that only have a score, as none are needed. If
    the model exceeds the budget, `fit` makes no splits, and takes prunes in order of least loss
    until the model is within the budget, or all prunes if there are too few.

    With `multiple_of`, a group takes as many steps as fit, each from one multiple to the next, in
    order of value per channel; proposals that do not reach another multiple are dropped.

    Args:
        proposals: the proposals that a rule selected.
        graph: the traced model.
        budget: the most that the edited model may have, by `params`, `macs`, `flops`, `energy`, or
            `latency` in milliseconds, which is measured on the inputs of the trace.
        multiple_of: the number that the width of each changed group becomes a multiple of; one
            number, or numbers by group.

    Returns:
        The proposals to apply, largest value first.

    Raises:
        RamifyError: as :func:`check_budget`, for an invalid multiple, or for proposals of another
            trace.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> graph = ramify.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> proposals = [
        ...     ramify.Proposal(ramify.Split("0", n), gain, ramify.cost.Cost(7, 6), graph=graph)
        ...     for n, gain in enumerate([0.1, 0.4, 0.3, 0.2])
        ... ]
        >>> ramify.cost.graph_cost(graph).params  # and each split adds 7
        58
        >>> [p.edit.channel for p in ramify.fit(proposals, graph, {"params": 75})]
        [1, 2]
    """
    check_budget(budget)
    check_multiple(multiple_of)
    candidates, within = gather(proposals, graph), _within(graph, budget)
    asked = multiples(candidates.graph, multiple_of)
    worth = [proposal.value for proposal in candidates.proposals]
    sound = candidates.without_last_prunes(candidates.ranked(worth, range(len(worth))))
    prunes = [number for number in sound if candidates.is_prune(number)]
    # Over the budget: only prunes, as few as needed.
    if not within([]):
        steps = prune_steps(candidates, prunes, asked)
        return _proposals_of(candidates, steps[: _fewest_prunes(candidates, steps, within)])
    # Within it: the whole selection, if its widths are multiples already and it fits.
    gains = {number for number in prunes if candidates.proposals[number].score is None}
    splits = [number for number in sound if not candidates.is_prune(number)]
    whole = [number for number in sound if number in gains or not candidates.is_prune(number)]
    if asked and on_multiples(candidates, whole, asked):
        found = [candidates.proposals[number] for number in whole]
        if within(found):
            return found
    # Else the prunes with a gain, and the splits that fit together with them.
    down = prune_steps(candidates, [number for number in prunes if number in gains], asked)
    gone = [number for step in down for number in step.numbers]
    up = split_steps(candidates, splits, gone, asked)
    kept = _affordable(candidates, up, gone, CostModel(graph), budget)
    if "latency" in budget:
        kept = _fast_enough(candidates, kept, down, within)
    return _proposals_of(candidates, [*down, *kept])


def check_budget(budget: Any) -> None:
    """Check a budget for the edited model.

    Args:
        budget: as for :func:`fit`.

    Raises:
        RamifyError: it is no dictionary, a name is unknown, or a total is not a finite number above
            0.
    """
    check_kind(budget, "budget", Mapping, optional=False)
    for name, total in budget.items():
        if name not in BUDGETS:
            raise RamifyError(f"a budget must be one of {', '.join(BUDGETS)}, but got '{name}'")
        if not (is_number(total) and math.isfinite(total) and total > 0):
            raise RamifyError(f"the budget of {name} must be finite and above 0, but got {total!r}")


Check = Callable[[Sequence[Proposal]], bool]


def _within(graph: ChannelGraph, budget: Mapping[str, float]) -> Check:
    """Return a check of whether the model with some edits is within the budget."""
    model = CostModel(graph)
    now = model.cost()

    def check(proposals: Sequence[Proposal]) -> bool:
        edits = [proposal.edit for proposal in proposals]
        more = model.added(edits)
        counted = (name for name in budget if name in RESOURCES)
        if any(now.of(name) + more.of(name) > budget[name] for name in counted):
            return False
        return "latency" not in budget or measure_edited(graph, edits).median <= budget["latency"]

    return check


def _proposals_of(candidates: Candidates, steps: Sequence[FitStep]) -> list[Proposal]:
    """The proposals of the last step of each key, largest value first."""
    last = {step.key: step.numbers for step in steps}
    found = [candidates.proposals[number] for numbers in last.values() for number in numbers]
    return sorted(found, key=lambda proposal: -proposal.value)


def _fewest_prunes(candidates: Candidates, steps: Sequence[FitStep], within: Check) -> int:
    """The smallest sufficient number of first prune steps, by bisection; else all of them."""
    low, high = 1, len(steps)
    while low < high:
        middle = (low + high) // 2
        enough = within(_proposals_of(candidates, steps[:middle]))
        low, high = (low, middle) if enough else (middle + 1, high)
    return high


def _affordable(
    candidates: Candidates,
    steps: Sequence[FitStep],
    gone: Sequence[int],
    model: CostModel,
    budget: Mapping[str, float],
) -> list[FitStep]:
    """The split steps, in order, that fit the counted budgets together with the prunes."""
    counted = {name: budget[name] for name in budget if name in RESOURCES}
    place = {name: number for number, name in enumerate(model.names)}
    # Widths are kept up to date step by step; a step that is over a budget is undone.
    widths, kept, last = model.widths.copy(), list[FitStep](), dict[Hashable, list[int]]()
    for name, more in added(candidates, gone).items():
        widths[place[name]] += more
    for step in steps:
        change = added(candidates, step.numbers)
        change.subtract(added(candidates, last.get(step.key, [])))
        for name, more in change.items():
            widths[place[name]] += more
        cost = model.cost(widths)
        if all(cost.of(name) <= most for name, most in counted.items()):
            kept.append(step)
            last[step.key] = step.numbers
        else:
            for name, more in change.items():
                widths[place[name]] -= more
    return kept


def _fast_enough(
    candidates: Candidates, steps: list[FitStep], down: Sequence[FitStep], within: Check
) -> list[FitStep]:
    """The first split steps within the latency budget, measured by bisection."""
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high + 1) // 2
        fits = within(_proposals_of(candidates, [*down, *steps[:middle]]))
        low, high = (middle, high) if fits else (low, middle - 1)
    return steps[:low]
