"""Better shapes nearby: the widths of two groups at a time, at their best.

With the others held, each width of one group leaves the other a largest width that fits, as costs
rise with widths; so the best pair is found by looking at every width of one of them.

Shape letters: `W` groups of the graph, `D` widths that a group can get, `P` powers of one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ramify.cost import CostModel
from ramify.select.knapsack.value_curve import Curve, Floats
from ramify.tracing.indexing import Index


@dataclass(frozen=True)
class Budgets:
    """What a shape must hold to.

    Attributes:
        model: the cost of the traced model.
        totals: the most that the edited model may have of each resource.
        prices: of one more channel (W,), none below 0, and the most that they may sum to.
    """

    model: CostModel
    totals: Mapping[str, float]
    prices: tuple[Floats, float] | None = None

    def fit(self, widths: Index) -> bool:
        """Whether a shape (W,) is within all of them."""
        cost = self.model.cost(widths)
        return all(cost.of(name) <= total for name, total in self.totals.items()) and (
            self.prices is None or self._priced(widths) <= self.prices[1]
        )

    def _priced(self, widths: Index) -> float:
        assert self.prices is not None
        return float(self.prices[0] @ (widths - self.model.widths))

    def between(self, widths: Index, first: int, second: int) -> list[tuple[Floats, float]]:
        """Each budget on two groups: a polynomial in their widths (P, P), and its limit."""
        found = [
            (self.model.between(name, widths, first, second), total)
            for name, total in self.totals.items()
        ]
        if self.prices is not None:
            each, most = self.prices
            line = np.array([[0.0, each[second]], [each[first], 0.0]])
            rest = self._priced(widths) - float(each[[first, second]] @ widths[[first, second]])
            found.append((line, most - rest))
        return found


def improved(
    budgets: Budgets, curves: Mapping[int, Curve], at: Mapping[int, int], until: float
) -> dict[int, int]:
    """Move a shape that fits to better ones, two groups at a time, as long as that pays.

    Args:
        budgets: what the shape is within, and stays within.
        curves: what widths are worth, by number of the group.
        at: the column of each group's curve.
        until: when to stop, by `time.monotonic`.

    Returns:
        The columns of the best shape found.
    """
    groups, at = list(curves), dict(at)
    now = budgets.model.widths
    widths = now.copy()
    for group, column in at.items():
        widths[group] += curves[group].changes[column]
    pairs = [(i, j) for n, i in enumerate(groups) for j in groups[n + 1 :]]
    order = np.random.default_rng(0).permutation(len(pairs))
    settled, position = 0, 0
    while settled < len(pairs) and time.monotonic() < until:
        i, j = pairs[order[position]]
        position = (position + 1) % len(pairs)
        settled += 1
        sides = (now[i] + curves[i].changes, now[j] + curves[j].changes)
        partner = _largest(budgets.between(widths, i, j), *sides)
        worth = curves[i].values + curves[j].values[partner]
        worth[partner < 0] = -np.inf
        best = int(worth.argmax())
        before = curves[i].values[at[i]] + curves[j].values[at[j]]
        if worth[best] > before + 1e-9 * abs(before):
            moved = widths.copy()
            moved[i], moved[j] = sides[0][best], sides[1][partner[best]]
            if budgets.fit(moved):
                at[i], at[j], widths, settled = best, int(partner[best]), moved, 0
    if not pairs:
        at = _alone(budgets, curves, at)
    return at


def _alone(budgets: Budgets, curves: Mapping[int, Curve], at: Mapping[int, int]) -> dict[int, int]:
    """The widest that fits of the one group."""
    ((group, curve),) = curves.items()
    widths, low, high = budgets.model.widths.copy(), at[group], len(curve.changes) - 1
    while low < high:
        middle = (low + high + 1) // 2
        widths[group] = budgets.model.widths[group] + curve.changes[middle]
        low, high = (middle, high) if budgets.fit(widths) else (low, middle - 1)
    return {group: low}


def _largest(limits: Sequence[tuple[Floats, float]], first: Index, second: Index) -> Index:
    """For each width of the first group (D,), the last column of the second that fits, or -1."""
    rows = [
        (np.vander(first.astype(np.float64), len(table), increasing=True) @ table, limit)
        for table, limit in limits
    ]
    widths = second.astype(np.float64)
    low = np.full(len(first), -1)
    high = np.full(len(first), len(second) - 1)
    while (low < high).any():
        middle = (low + high + 1) // 2
        here, fits = widths[middle], np.ones(len(first), dtype=bool)
        for row, limit in rows:
            amount = row[:, -1]
            for power in range(row.shape[1] - 2, -1, -1):
                amount = amount * here + row[:, power]
            fits &= amount <= limit
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    return low
