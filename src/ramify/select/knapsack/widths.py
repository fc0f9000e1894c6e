"""Solve the knapsack over widths: linear program and local search, or an exact program.

Shape letters: `G` groups with proposals, `N` columns: one for each width that a group can get.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ramify.select.knapsack.limit import Limit
from ramify.select.knapsack.linear_bound import LinearBound
from ramify.select.knapsack.local_search import drawn_in, improved
from ramify.select.knapsack.problem import Budgets, WidthChoices
from ramify.select.knapsack.solver import milp
from ramify.tracing.indexing import Index

RESTARTS = 6  # restarts of the local search
NARROWED = 0.3  # share of the groups made narrowest at a restart
CLOSE = 1e-4  # the relative gap at which there is no further restart


def best_widths(
    choices: WidthChoices, budgets: Budgets, exact: bool, limit: Limit
) -> tuple[Index, float]:
    """The best choice of widths found, and an upper bound on the value of any that fits.

    Args:
        choices: the widths to choose from; the narrowest of all groups fit together.
        budgets: the limits that they must meet.
        exact: whether to prove the optimum by a mixed-integer program, if time allows.
        limit: when to stop; its steps are used up.

    Returns:
        The column of each group (G,), and the bound.
    """
    quarter, half, most = (limit.share(part / 4) for part in (1, 2, 3))
    program = LinearBound(choices, budgets)
    first, near = program.solve(quarter)
    program.add_ends()
    second, _ = program.solve(half)
    bound = min(first, second)
    if exact:
        proven, highest = _proven(choices, budgets, program, Limit(most, limit.steps))
        bound = min(bound, highest)
        if proven is not None:
            return proven, bound
    found = improved(choices, budgets, drawn_in(choices, budgets, near), limit)
    # Local search ends where no pair of groups improves: restart with some groups narrowest.
    draw = np.random.default_rng(0)
    for _ in range(RESTARTS):
        value = choices.value(found)
        if limit.over() or bound - value <= CLOSE * abs(bound):
            break
        narrowed = np.where(draw.random(len(found)) < NARROWED, choices.start, found)
        again = improved(choices, budgets, narrowed, limit)
        found = again if choices.value(again) > value else found
    return found, max(bound, choices.value(found))


def _proven(
    choices: WidthChoices, budgets: Budgets, program: LinearBound, limit: Limit
) -> tuple[Index | None, float]:
    """The best choice by a mixed-integer program.

    The cuts of the linear program allow some choices that are over a budget. If the optimum is one
    of these, it is cut off, and the program is solved again.

    Returns:
        (G,), None if there was no time to prove it; and an upper bound on the value.
    """
    bound = np.inf
    wider: list[tuple[np.ndarray, float]] = []
    columns = np.arange(len(choices.values))
    one_each = (program.one_each(columns), 1.0, 1.0)
    while not limit.over():
        constraints: list[tuple[Any, Any, Any]] = [one_each]
        rows, limits = program.cuts()
        if len(rows):
            constraints.append((rows, -np.inf, limits))
        if wider:
            constraints.append((np.array([r for r, _ in wider]), -np.inf, [m for _, m in wider]))
        found = milp(
            -program.unit * choices.values,
            integrality=np.ones(len(columns)),
            bounds=(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0, **limit.options()},
        )
        if found.mip_dual_bound is not None:
            bound = min(bound, -found.mip_dual_bound / program.unit)
        if found.x is None or found.status:
            break
        choice = np.flatnonzero(np.round(found.x))
        if budgets.fit(choices.all_widths(choice)):
            return choice, bound
        program.add_tangents(choices.all_widths(choice).astype(np.float64))
        # Choices that are nowhere narrower are over the budget too.
        wider.append(((columns >= choice[choices.place]).astype(np.float64), len(choice) - 1.0))
    return None, bound
