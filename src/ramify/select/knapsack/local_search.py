"""Local search over widths: optimise two groups at a time.

With the others fixed, each width of one group leaves the other a largest width that fits, as costs
rise with widths; so the best pair is found by trying every width of one of them.

Shape letters: `W` groups of the graph, `G` groups with proposals, `D` widths that a group can get,
`P` powers of one.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

import numpy as np

from ramify.select.knapsack.limit import Limit
from ramify.select.knapsack.problem import Budgets, WidthChoices
from ramify.tracing.indexing import Floats, Index

CLOSE = 1e-6  # relative to the value: a round that improves less is the last


def drawn_in(choices: WidthChoices, budgets: Budgets, choice: Index) -> Index:
    """A choice (G,) that fits: all groups are moved towards the narrowest by the same fraction."""
    steps = 1 << 12

    def at(part: int) -> Index:
        return choices.start + (choice - choices.start) * part // steps

    def over(part: int) -> bool:
        return not budgets.fit(choices.all_widths(at(part)))

    return at(bisect.bisect_left(range(1, steps + 1), True, key=over))


def improved(choices: WidthChoices, budgets: Budgets, choice: Index, limit: Limit) -> Index:
    """Improve a choice that fits, two groups at a time, until nothing improves.

    Args:
        choices: the widths to choose from.
        budgets: the limits, which the choice meets before and after.
        choice: (G,), the column of each group.
        limit: when to stop; each pair uses one of its steps.

    Returns:
        (G,), the best choice found.
    """
    if len(choices.groups) == 1:
        return _widest(choices, budgets)
    pairs = np.array(list(itertools.combinations(range(len(choice)), 2)))
    pairs = np.random.default_rng(0).permutation(pairs)
    while True:
        before = choices.value(choice)
        for i, j in pairs.tolist():
            if limit.over():
                return choice
            limit.steps -= 1
            choice = _best_pair(choices, budgets, choice, i, j)
        if choices.value(choice) <= before + CLOSE * abs(before):
            return choice


def _best_pair(choices: WidthChoices, budgets: Budgets, choice: Index, i: int, j: int) -> Index:
    """The choice (G,) with the best widths of two groups, the others fixed."""
    mine, other = (slice(choices.start[n], choices.stop[n]) for n in (i, j))
    groups = choices.groups[[i, j]].tolist()
    limits = budgets.between(choices.all_widths(choice), *groups)
    partner = _largest(limits, choices.widths[mine], choices.widths[other])
    worth = choices.values[mine] + choices.values[other][partner]
    worth[partner < 0] = -np.inf
    best = int(worth.argmax())
    before = choices.values[choice[i]] + choices.values[choice[j]]
    if worth[best] <= before + 1e-9 * abs(before):
        return choice
    moved = choice.copy()
    moved[i], moved[j] = choices.start[i] + best, choices.start[j] + partner[best]
    # Counted in integers, which do not round as the polynomials of pairs do.
    return moved if budgets.fit(choices.all_widths(moved)) else choice


def _widest(choices: WidthChoices, budgets: Budgets) -> Index:
    """The choice with the largest width that fits, where there is only one group."""
    columns = range(len(choices.values))

    def over(column: int) -> bool:
        return not budgets.fit(choices.all_widths(np.array([column])))

    return np.array([bisect.bisect_left(columns, True, key=over) - 1])


def _largest(limits: Sequence[tuple[Floats, float]], first: Index, second: Index) -> Index:
    """For each width of the first group (D,), the last of the second's that fits, or -1."""
    # A budget at a width of the first group: a polynomial in the second's width, a row for each.
    rows = [
        (np.vander(first.astype(np.float64), len(table), increasing=True) @ table, limit)
        for table, limit in limits
    ]
    widths = second.astype(np.float64)
    low = np.full(len(first), -1)
    high = np.full(len(first), len(second) - 1)
    while (low < high).any():  # bisection, for all widths of the first group at once
        middle = (low + high + 1) // 2
        here, fits = widths[middle], np.ones(len(first), dtype=bool)
        for row, limit in rows:
            amount = row[:, -1]
            for power in range(row.shape[1] - 2, -1, -1):
                amount = amount * here + row[:, power]
            fits &= amount <= limit
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    return low
