r"""An upper bound on the value of any widths within the budgets, and widths to start from.

Both come from a linear program over the shares of columns: each group takes a mixture of its
widths. The true cost is a polynomial in the widths with positive coefficients, and two kinds of
tangents bound it from below at all widths of the table, linearly in the shares:

- tangents in the log-widths, in which the cost is convex, added at the mixture's mean widths as
  long as these are over a budget;
- tangents in the widths at the narrowest and at the widest of all groups, since
  :math:`\prod y_i \ge 1 + \sum (y_i - 1)` for :math:`y_i \ge 1`, and for :math:`0 \le y_i \le 1`.

By duality any prices of these cuts bound the value; so the bound holds whenever the search stops,
and also for the columns that are not in the program.

Shape letters: `W` groups of the graph, `G` groups with proposals, `N` columns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import scipy  # its submodules are imported on use

from ramify.select.knapsack.problem import Budgets, WidthChoices
from ramify.tracing.indexing import Floats, Index

Cut = tuple[Floats, float]
"""A row (N,) of the program, and the limit on its product with the shares."""
SCALE = 1e3  # the largest value after scaling: the solver's tolerances are absolute
CLOSE = 1e-5  # relative tolerance of the mixture on its budgets and its bound
EPSILON = 1e-5  # rounding error of a logarithm, and relative rounding error of a worth
COARSE = 17  # columns per group that the program starts with
ROUNDS = 30  # rounds of adding tangents and columns


class LinearBound:
    """The linear program, with the cuts so far.

    Args:
        choices: the widths to choose from.
        budgets: the limits that the widths must meet.
    """

    def __init__(self, choices: WidthChoices, budgets: Budgets) -> None:
        self._choices, self._budgets = choices, budgets
        self._group = choices.groups[choices.place]
        self._logs = np.log(choices.widths)
        self.unit = SCALE / max(float(np.abs(choices.values).max()), 1e-300)
        self._fixed = list(self._line_cut())
        self._tangents: list[Cut] = []
        self.add_tangents(budgets.model.widths.astype(np.float64))

    def solve(self, until: float) -> tuple[float, Index]:
        """The bound, and a choice near the best mixture.

        Args:
            until: when to stop, by `time.monotonic`.

        Returns:
            An upper bound on the value of choices within the budgets; and the columns (G,) of the
            mixture's mean widths, rounded down, which may be over a budget.
        """
        choices = self._choices
        bound, choice = choices.value(choices.stop - 1), choices.start  # largest value; narrowest
        active = np.zeros(len(choices.values), dtype=bool)
        for start, stop in zip(choices.start, choices.stop, strict=True):
            active[np.linspace(start, stop - 1, COARSE).astype(np.int64)] = True
        for _ in range(ROUNDS):
            left = until - time.monotonic()
            if left <= 0:
                break
            rows, limits = self.cuts()
            columns = np.flatnonzero(active)
            found = scipy.optimize.linprog(
                -self.unit * choices.values[columns],
                A_ub=rows[:, columns] if len(rows) else None,
                b_ub=limits if len(rows) else None,
                A_eq=self.one_each(columns),
                b_eq=np.ones(len(choices.groups)),
                method="highs",
                options={} if math.isinf(left) else {"time_limit": left},
            )
            if found.x is None or found.status:
                break
            # The dual bound: at these prices each group alone takes its most valuable column.
            price = np.maximum(-found.ineqlin.marginals, 0.0)
            worth = self.unit * choices.values - price @ rows
            best = np.maximum.reduceat(worth, choices.start)
            limit = float(best.sum() + price @ limits)
            bound = min(bound, limit / self.unit)
            # Tangents with price 0 are dropped: few of them matter at any time.
            prices = price[len(self._fixed) :]
            self._tangents = [cut for cut, p in zip(self._tangents, prices, strict=True) if p > 0]
            # Where the mixture's mean widths are over a budget, a tangent there cuts them off.
            mixture = np.zeros(len(choices.values))
            mixture[columns] = found.x
            logs = np.add.reduceat(mixture * self._logs, choices.start)
            choice = self._rounded_down(logs)
            widths = self._budgets.model.widths.astype(np.float64)
            widths[choices.groups] = np.exp(logs)
            over = self.add_tangents(widths)
            if limit + found.fun <= CLOSE * abs(limit) and over < CLOSE:
                break
            active |= worth >= (best - EPSILON * np.abs(best))[choices.place]
        return bound, choice

    def _line_cut(self) -> Iterator[Cut]:
        """The linear latency of the budgets, if there is one; it is exact."""
        if self._budgets.line is not None:
            each, most = self._budgets.line
            now = self._budgets.model.widths
            row = each[self._group] * (self._choices.widths - now[self._group])
            size = max(float(np.abs(row).max()), abs(most), 1e-300)
            yield row / size, most / size

    def add_ends(self) -> None:
        """Cut by the tangents in the widths at the narrowest and at the widest of all groups.

        They lower the bound, but move the mixture farther from integral widths.
        """
        choices, group = self._choices, self._group
        for choice in (choices.start, choices.stop - 1):
            widths = choices.all_widths(choice).astype(np.float64)
            for resource, total in self._budgets.totals.items():
                amount, slopes = self._budgets.model.tangent(resource, widths)
                row = (slopes / widths)[group] * (choices.widths - widths[group])
                self._fixed.append((row / total, 1.0 - amount / total))

    def _rounded_down(self, logs: Floats) -> Index:
        """The columns (G,) of the largest widths up to these logarithms (G,)."""
        choices = self._choices
        below = self._logs <= (logs + EPSILON)[choices.place]
        count = np.add.reduceat(below.astype(np.int64), choices.start)
        return choices.start + np.maximum(count - 1, 0)

    def one_each(self, columns: Index) -> scipy.sparse.csr_array:
        """One width for every group: one row per group."""
        choices = self._choices
        entries = (np.ones(len(columns)), (choices.place[columns], np.arange(len(columns))))
        return scipy.sparse.csr_array(entries, shape=(len(choices.groups), len(columns)))

    def cuts(self) -> tuple[Floats, Floats]:
        """All cuts: rows (cuts, N) and limits (cuts,)."""
        cuts = [*self._fixed, *self._tangents]
        rows = np.array([row for row, _ in cuts]).reshape(-1, len(self._logs))
        return rows, np.array([limit for _, limit in cuts])

    def add_tangents(self, widths: Floats) -> float:
        """Cut by each budget's tangent at widths (W,); returns the largest excess of these."""
        model, most = self._budgets.model, 0.0
        groups = self._choices.groups
        for resource, total in self._budgets.totals.items():
            amount, slopes = model.tangent(resource, widths)
            fixed = amount - float(slopes[groups] @ np.log(widths[groups]))
            self._tangents.append((slopes[self._group] * self._logs / total, 1.0 - fixed / total))
            most = max(most, amount / total - 1.0)
        return most
