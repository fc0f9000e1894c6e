r"""The bound of the knapsack over widths: a linear program over "which width for which group".

The true cost is a polynomial in the widths with positive coefficients, hence convex in their
logarithms: tangents there bound it from below at every shape. So do, among the shapes of a box, the
tangents in the widths themselves at its narrowest and its widest shape; each monomial there is
:math:`\prod x_i \ge 1 + \sum (x_i - 1)`, once all :math:`x_i \ge 1` and once all in [0, 1].

Shape letters: `W` groups of the graph, `G` groups with a curve, `N` columns: one for each width
that a group can get.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from ramify.select.knapsack.local_search import Budgets
from ramify.select.knapsack.value_curve import Curve, Floats
from ramify.tracing.indexing import Index

SCALE = 1e3  # what the largest value becomes: the solver's tolerances are absolute
CLOSE = 1e-5  # how far from its budgets and its bound, relatively, a relaxed shape may stay
COARSE = 17  # columns of a group that a relaxation starts with
ROUNDS = 30  # of a relaxation
KEPT = 40  # cuts by tangents that a relaxation takes, the latest


@dataclass(frozen=True)
class Box:
    """The shapes whose columns lie between two of each group.

    Attributes:
        low: (G,) columns.
        high: (G,) columns, themselves among them.
        bound: no shape of the box within the budgets is worth more.
        share: (N,) of each column in the relaxed shape; None before it is known.
    """

    low: Index
    high: Index
    bound: float
    share: Floats | None = None


@dataclass
class Relaxation:
    """The linear program, with the cuts so far.

    Args:
        budgets: what shapes must hold to.
        curves: what widths are worth, by number of the group.
    """

    budgets: Budgets
    curves: Mapping[int, Curve]
    tangents: list[tuple[Floats, float]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        now = self.budgets.model.widths
        sizes = [len(curve.changes) for curve in self.curves.values()]
        self.numbers = np.array(list(self.curves), dtype=np.int64)
        self.ends = np.cumsum([0, *sizes])
        self.place = np.repeat(np.arange(len(sizes)), sizes)
        self.group = self.numbers[self.place]
        self.values = np.concatenate([curve.values for curve in self.curves.values()])
        changes = np.concatenate([curve.changes for curve in self.curves.values()])
        self.widths = now[self.group] + changes
        self.unit = SCALE / max(float(np.abs(self.values).max()), 1e-300)
        self._logs = np.log(self.widths)
        self._active = np.zeros(len(self.values), dtype=bool)
        for start, end in zip(self.ends[:-1], self.ends[1:], strict=True):
            self._active[np.linspace(start, end - 1, COARSE).astype(np.int64)] = True
        for resource in self.budgets.totals:
            self.touch(resource, now.astype(np.float64))

    def whole(self) -> Box:
        """The box of all shapes, in columns of all groups together."""
        last = self.ends[1:] - 1  # worth most, as values rise
        return Box(self.ends[:-1], last, float(self.values[last].sum()))

    def shape(self, columns: Index) -> Index:
        """The widths (W,) that columns (G,) stand for."""
        widths = self.budgets.model.widths.copy()
        widths[self.numbers] = self.widths[columns]
        return widths

    def middle(self, share: Floats) -> Index:
        """The columns (G,) of the mean logarithms, rounded down."""
        logs = np.add.reduceat(share * self._logs, self.ends[:-1]) + CLOSE
        return np.array(
            [
                start + max(int(np.searchsorted(self._logs[start:end], log, "right")) - 1, 0)
                for start, end, log in zip(self.ends[:-1], self.ends[1:], logs, strict=True)
            ]
        )

    def tightened(self, box: Box, floor: float, until: float) -> Box:
        """A box with a bound on the value, and without widths that are surely not worth `floor`.

        Args:
            box: the shapes to look at.
            floor: what a shape must be worth more than to be of interest.
            until: when to stop, by `time.monotonic`.

        Returns:
            The box, with its relaxed shape; its bound is -inf where nothing fits.
        """
        low, high = self._reachable(box.low, box.high)
        if (low > high).any():
            return Box(low, high, -np.inf)
        bound, share = box.bound, box.share
        logs = np.log(self.budgets.model.widths.astype(np.float64))
        self._active[low] = self._active[high] = True
        for _ in range(ROUNDS):
            inside = self.inside(low, high)
            rows, limits = self.cuts(low, high)
            columns = np.flatnonzero(self._active & inside)
            left = until - time.monotonic()
            if left <= 0:
                break
            found = linprog(
                -self.unit * self.values[columns],
                A_ub=rows[:, columns] if len(rows) else None,
                b_ub=limits if len(rows) else None,
                A_eq=self.one_each(columns),
                b_eq=np.ones(len(self.numbers)),
                method="highs",
                options={"time_limit": max(left, 0.01)},
            )
            if found.status == 2:  # of no mixture of all widths, as the narrowest are among them
                return Box(low, high, -np.inf)
            if found.x is None or found.status:
                break
            price = np.maximum(-found.ineqlin.marginals, 0.0)
            worth = np.where(inside, self.unit * self.values - price @ rows, -np.inf)
            best = np.maximum.reduceat(worth, self.ends[:-1])
            limit = float(best.sum() + price @ limits)
            bound = min(bound, limit / self.unit)
            share = np.zeros(len(self.values))
            share[columns] = found.x
            if bound <= floor:
                break
            spare = limit - self.unit * floor
            if math.isfinite(floor):
                low, high = self._span(inside & (worth >= best[self.place] - spare))
            logs[self.numbers] = np.add.reduceat(share * self._logs, self.ends[:-1])
            over = [self.touch(name, np.exp(logs)) for name in self.budgets.totals]
            if limit + found.fun <= CLOSE * abs(limit) and max(over, default=0.0) < CLOSE:
                break
            near = CLOSE * np.abs(best)
            self._active |= worth >= (best - near)[self.place]
            self._active[low] = self._active[high] = True
        return Box(low, high, bound, share)

    def one_each(self, columns: Index) -> csr_array:
        """One width for every group: a row a group."""
        entries = (np.ones(len(columns)), (self.place[columns], np.arange(len(columns))))
        return csr_array(entries, shape=(len(self.numbers), len(columns)))

    def inside(self, low: Index, high: Index) -> np.ndarray:
        """Whether each column (N,) lies in a box."""
        numbers = np.arange(len(self.values))
        inside: np.ndarray = (numbers >= low[self.place]) & (numbers <= high[self.place])
        return inside

    def _span(self, kept: np.ndarray) -> tuple[Index, Index]:
        """The first and the last kept column of each group."""
        numbers = np.arange(len(kept))
        first = np.minimum.reduceat(np.where(kept, numbers, len(kept)), self.ends[:-1])
        last = np.maximum.reduceat(np.where(kept, numbers, -1), self.ends[:-1])
        return first, last

    def _reachable(self, low: Index, high: Index) -> tuple[Index, Index]:
        """The box without the widths that are over budget where all other groups are narrowest."""
        shape, high = self.shape(low), high.copy()
        if not self.budgets.fit(shape):
            return low, low - 1
        for place, number in enumerate(self.numbers.tolist()):
            first, last, widths = int(low[place]), int(high[place]), shape.copy()
            widths[number] = self.widths[last]
            if self.budgets.fit(widths):
                continue
            while first < last:
                middle = (first + last + 1) // 2
                widths[number] = self.widths[middle]
                first, last = (middle, last) if self.budgets.fit(widths) else (first, middle - 1)
            high[place] = first
        return low, high

    # Cuts -------------------------------------------------------------------------------------

    def cuts(self, low: Index, high: Index) -> tuple[Floats, Floats]:
        """All cuts on the shapes of a box: rows (cuts, N) and limits (cuts,)."""
        cuts = self.tangents[-KEPT:]
        for columns in (low, high):
            at = self.shape(columns).astype(np.float64)
            for resource, total in self.budgets.totals.items():
                amount, slopes = self.budgets.model.tangent(resource, at)
                each = (slopes / at)[self.group] * (self.widths - at[self.group])
                cuts.append((each / total, 1.0 - amount / total))
        if self.budgets.prices is not None:
            each, most = self.budgets.prices
            row = each[self.group] * (self.widths - self.budgets.model.widths[self.group])
            size = max(float(np.abs(row).max()), abs(most), 1e-300)
            cuts.append((row / size, most / size))
        rows = np.array([row for row, _ in cuts]).reshape(len(cuts), len(self.values))
        return rows, np.array([limit for _, limit in cuts])

    def touch(self, resource: str, widths: Floats) -> float:
        """Add the tangent in logarithms; by how much these widths are over, relatively."""
        total = self.budgets.totals[resource]
        amount, slopes = self.budgets.model.tangent(resource, widths)
        each = slopes[self.group] * self._logs
        rest = amount - float(slopes[self.numbers] @ np.log(widths[self.numbers]))
        self.tangents.append((each / total, 1.0 - rest / total))
        return amount / total - 1.0
