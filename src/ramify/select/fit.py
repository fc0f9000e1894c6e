"""Cutting a selection to a budget of totals: what the growing loop does after its rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence

from ramify.cost import RESOURCES, CostModel
from ramify.errors import RamifyError
from ramify.latency import measure_edited
from ramify.methods import Proposal
from ramify.select.candidates import Candidates, gather
from ramify.select.fit_steps import Step, added, downward, even, upward
from ramify.select.rounding import Multiple, check_multiple, multiples
from ramify.tracing import ChannelGraph

BUDGETS = (*RESOURCES, "latency")
"""What `fit` can hold a model to."""


def fit(
    proposals: Sequence[Proposal],
    graph: ChannelGraph,
    budget: Mapping[str, float],
    *,
    multiple_of: Multiple = 1,
) -> list[Proposal]:
    """Cut a selection so that the edited model stays within, or comes to be within, a budget.

    Where the model is within the budget, splits are kept as long as they fit, largest value first,
    and prunes with an expected gain; prunes that only have a score are ranked by what is least
    needed, and nothing more needs to go. Where the model is over, splits are left, and prunes are
    taken, those that lose least first, just until it is within, or all if they are too few.

    With `multiple_of` a group takes as many steps as fit, each from one multiple to the next, in
    order of the value a channel; what reaches no further multiple is left.

    Args:
        proposals: what a rule selected.
        graph: the traced model.
        budget: the most that the edited model may have, by `params`, `macs`, `flops`, `energy`, or
            `latency` in milliseconds, which is measured on the inputs of the trace.
        multiple_of: what the width of each group becomes a multiple of, where it changes; a number,
            or numbers by group.

    Returns:
        The proposals to carry out, largest value first.

    Raises:
        RamifyError: a budget of another name, or no total above 0; no multiple.
    """
    for name, total in budget.items():
        if name not in BUDGETS:
            raise RamifyError(f"a budget is of {', '.join(BUDGETS)}, and got '{name}'")
        if not (math.isfinite(total) and total > 0):
            raise RamifyError(f"the budget of {name} is a finite total above 0, and got {total}")
    check_multiple(multiple_of)
    candidates, within = gather(proposals, graph), _within(graph, budget)
    asked = multiples(candidates.graph, multiple_of)
    worth = [proposal.value for proposal in candidates.proposals]
    sound = candidates.spared(candidates.ranked(worth, range(len(worth))))
    prunes = [number for number in sound if candidates.prunes(number)]
    if not within([]):
        steps = downward(candidates, prunes, asked)
        return _taken(candidates, steps[: _enough(candidates, steps, within)])
    gains = {number for number in prunes if candidates.proposals[number].score is None}
    splits = [number for number in sound if not candidates.prunes(number)]
    whole = [number for number in sound if number in gains or not candidates.prunes(number)]
    if asked and even(candidates, whole, asked):
        found = [candidates.proposals[number] for number in whole]
        if within(found):
            return found
    down = downward(candidates, [number for number in prunes if number in gains], asked)
    gone = [number for step in down for number in step.numbers]
    up = upward(candidates, splits, gone, asked)
    kept = _as_many(candidates, up, gone, CostModel(graph), budget)
    if "latency" in budget:
        kept = _fast(candidates, kept, down, within)
    return _taken(candidates, [*down, *kept])


Check = Callable[[Sequence[Proposal]], bool]


def _within(graph: ChannelGraph, budget: Mapping[str, float]) -> Check:
    """Whether the model edited so is within the budget."""
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


def _taken(candidates: Candidates, steps: Sequence[Step]) -> list[Proposal]:
    """The proposals of the last step of each key, largest value first."""
    last = {step.key: step.numbers for step in steps}
    found = [candidates.proposals[number] for numbers in last.values() for number in numbers]
    return sorted(found, key=lambda proposal: -proposal.value)


def _enough(candidates: Candidates, steps: Sequence[Step], within: Check) -> int:
    """The fewest of the first steps of prunes that are enough, by bisection; else all of them."""
    low, high = 1, len(steps)
    while low < high:
        middle = (low + high) // 2
        enough = within(_taken(candidates, steps[:middle]))
        low, high = (low, middle) if enough else (middle + 1, high)
    return high


def _as_many(
    candidates: Candidates,
    steps: Sequence[Step],
    gone: Sequence[int],
    model: CostModel,
    budget: Mapping[str, float],
) -> list[Step]:
    """Of the steps of splits, in order, those that what is counted allows beside the prunes."""
    counted = {name: budget[name] for name in budget if name in RESOURCES}
    place = {name: number for number, name in enumerate(model.names)}
    widths, kept, last = model.widths.copy(), list[Step](), dict[Hashable, list[int]]()
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


def _fast(
    candidates: Candidates, steps: list[Step], down: Sequence[Step], within: Check
) -> list[Step]:
    """The first steps of splits that latency allows: measured, in as few shapes as bisection."""
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high + 1) // 2
        fits = within(_taken(candidates, [*down, *steps[:middle]]))
        low, high = (middle, high) if fits else (low, middle - 1)
    return steps[:low]
