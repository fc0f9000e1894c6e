r"""The knapsack over the widths of a traced model: values are curves, costs are polynomials.

The true cost is a polynomial in the widths with positive coefficients, hence convex in their
logarithms: tangents there (and at the narrowest shape, in the widths themselves) bound it from
below at every shape. A linear program over "which width for which group" with these cuts bounds
the value from above; a shape over budget adds the cut that rules it out, until a shape fits.

Shape letters: `W` groups of the graph, `N` columns: one for each width that a group can get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, linprog, milp
from scipy.sparse import csr_array

from ramify.cost import CostModel
from ramify.select.curves import Curve, Floats
from ramify.trace.layout import Index

SCALE = 1e3  # what the largest value becomes: the solver's tolerances are absolute
ROUGH = 1e-3  # the relative gap that a rounded shape is searched to
NODES = 20_000  # of one branch and bound
CLOSE = 1e-5  # how far from its budgets and its bound, relatively, a relaxed shape may stay
COARSE = 33  # columns of a group that a relaxation starts with
ROUNDS = 40  # of a relaxation
STEPS = np.array([-n for n in 2 ** np.arange(12)] + [0, 3, -3] + [*(2 ** np.arange(12))])
# columns that a rounded shape may move by, near ones and far ones
MOVES = 2  # of a rounded shape to a better one nearby


@dataclass
class Shapes:
    """One knapsack: curves of some groups, budgets on the whole model, and the cuts so far.

    Args:
        model: the cost of the traced model.
        curves: what widths are worth, by number of the group.
        totals: the most that the edited model may have of each resource.
        prices: of one more channel (W,), and the most that they may sum to: a linear budget.
    """

    model: CostModel
    curves: Mapping[int, Curve]
    totals: Mapping[str, float]
    prices: tuple[Floats, float] | None = None
    _rows: list[Floats] = field(default_factory=list)
    _limits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        groups = list(self.curves)
        sizes = [len(curve.changes) for curve in self.curves.values()]
        self._group = np.repeat(groups, sizes)
        self._ends = np.cumsum([0, *sizes])
        self._changes = np.concatenate([curve.changes for curve in self.curves.values()])
        self._values = np.concatenate([curve.values for curve in self.curves.values()])
        self._widths = self.model.widths[self._group] + self._changes
        self._unit = SCALE / max(float(np.abs(self._values).max()), 1e-300)
        if self.prices is not None:
            each, most = self.prices
            size = max(float(np.abs(each[self._group] * self._changes).max()), abs(most), 1e-300)
            self._cut(each[self._group] * self._changes / size, most / size)
        lowest = self._narrowest()
        for resource in self.totals:
            self._cut_at_lowest(resource, lowest)
            self._cut_tangent(resource, self.model.widths.astype(np.float64))

    def _narrowest(self) -> Index:
        widths = self.model.widths.copy()
        for number, curve in self.curves.items():
            widths[number] += curve.changes[0]
        return widths

    def short(self) -> dict[str, float]:
        """By how much the narrowest shape is over each budget that it breaks."""
        cost = self.model.cost(self._narrowest())
        over = {name: cost.of(name) - total for name, total in self.totals.items()}
        return {name: excess for name, excess in over.items() if excess > 0}

    def solve(self, exact: bool) -> tuple[dict[int, int] | None, float]:
        """The best shape that fits.

        Args:
            exact: whether to prove it the best, or to round the relaxed shape.

        Returns:
            The change of each group's width, None where nothing fits; and a bound on the value.
        """
        bound, share = self._relax()
        if share is None:
            return None, bound
        if exact:
            changes, limit = self._whole(np.arange(len(self._values)), 0.0)
            if changes is not None:
                return changes, min(bound, limit)
        changes, _ = self._whole(self._near(self._fitting(share)), ROUGH)
        return (None if changes is None else self._improved(changes)), bound

    def _improved(self, changes: dict[int, int]) -> dict[int, int]:
        """Move to the best shape nearby for as long as that is worth more."""
        for _ in range(MOVES):
            columns = self._near(np.array(list(changes.values()), dtype=float))
            better, _ = self._whole(columns, ROUGH)
            if better is None or self._value(better) <= self._value(changes):
                break
            changes = better
        return changes

    def _value(self, changes: Mapping[int, int]) -> float:
        wanted = np.array([changes[number] for number in self._group.tolist()])
        return float(self._values[self._changes == wanted].sum())

    def _relax(self) -> tuple[float, Floats | None]:
        """A bound on the value, and the relaxed shape (N,) that has it."""
        # Few columns are in play at once: those enter that are worth more, at the prices of the
        # cuts, than what their group has (column generation). The bound is the Lagrangian one.
        logs = np.log(self.model.widths.astype(np.float64))
        first, bound, share = self._ends[:-1], np.inf, None
        active = np.zeros(len(self._values), dtype=bool)
        for start, end in zip(first, self._ends[1:], strict=True):
            active[np.linspace(start, end - 1, COARSE).astype(np.int64)] = True
        for _ in range(ROUNDS):
            columns = np.flatnonzero(active)
            rows, limits = np.array(self._rows), np.array(self._limits)
            found = linprog(
                -self._unit * self._values[columns],
                A_ub=rows[:, columns],
                b_ub=limits,
                A_eq=self._one_each(columns),
                b_eq=np.ones(len(self.curves)),
                method="highs",
            )
            if found.x is None:
                return -np.inf, None
            price = -found.ineqlin.marginals
            worth = self._unit * self._values - price @ rows
            best = np.maximum.reduceat(worth, first)
            bound = min(bound, float(best.sum() + price @ limits))
            share = np.zeros(len(self._values))
            share[columns] = found.x
            logs[list(self.curves)] = np.add.reduceat(share * np.log(self._widths), first)
            over = [self._cut_tangent(resource, np.exp(logs)) for resource in self.totals]
            done = bound + found.fun <= CLOSE * abs(bound)
            if done and max(over, default=0.0) < CLOSE:
                break
            sizes = np.diff(self._ends)
            active |= worth >= np.repeat(best, sizes) - CLOSE * np.abs(np.repeat(best, sizes))
        return bound / self._unit, share

    def _whole(self, columns: Index, gap: float) -> tuple[dict[int, int] | None, float]:
        """The best shape among some columns that fits, and what the search proved of the value."""
        bound = np.inf
        while True:
            found = self._branch(columns, gap)
            if found.mip_dual_bound is not None:
                bound = min(bound, -found.mip_dual_bound / self._unit)
            if found.x is None:
                return None, bound
            taken = columns[np.round(found.x).astype(bool)]
            widths = self.model.widths.copy()
            widths[self._group[taken]] = self._widths[taken]
            if not self._rule_out(taken, widths):
                groups, changes = self._group[taken].tolist(), self._changes[taken].tolist()
                return dict(zip(groups, changes, strict=True)), bound

    def _branch(self, columns: Index, gap: float) -> OptimizeResult:
        constraints: list[tuple[Any, Any, Any]] = [(self._one_each(columns), 1.0, 1.0)]
        if self._rows:
            rows = np.array(self._rows)[:, columns]
            constraints.append((rows, -np.inf, np.array(self._limits)))
        return milp(
            -self._unit * self._values[columns],
            integrality=np.ones(len(columns)),
            bounds=(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": gap, "node_limit": NODES},
        )

    def _rule_out(self, taken: Index, widths: Index) -> bool:
        """Cut off a shape that is over budget; True if it was."""
        cost = self.model.cost(widths)
        over = [name for name, total in self.totals.items() if cost.of(name) > total]
        for resource in over:
            self._cut_tangent(resource, widths.astype(np.float64))
        added = widths - self.model.widths
        priced = self.prices is not None and self.prices[0] @ added > self.prices[1]
        if over or priced:  # what is nowhere narrower is over budget too
            beyond = np.zeros(len(self._values))
            for column in taken:
                mine = self._group == self._group[column]
                beyond[mine & (self._changes >= self._changes[column])] = 1.0
            self._cut(beyond, len(taken) - 1.0)
        return bool(over or priced)

    def _cut_tangent(self, resource: str, widths: Floats) -> float:
        """Add the tangent in logarithms; by how much these widths are over, relatively."""
        total = self.totals[resource]
        amount, slopes = self.model.tangent(resource, widths)
        each = slopes[self._group] * np.log(self._widths)
        groups = list(self.curves)
        rest = amount - float(slopes[groups] @ np.log(widths[groups]))
        self._cut(each / total, 1.0 - rest / total)
        return amount / total - 1.0

    def _cut_at_lowest(self, resource: str, lowest: Index) -> None:
        """Add the tangent in the widths, which holds above the point where it touches."""
        total = self.totals[resource]
        amount, slopes = self.model.tangent(resource, lowest.astype(np.float64))
        each = (slopes / lowest)[self._group] * (self._widths - lowest[self._group])
        self._cut(each / total, 1.0 - amount / total)

    def _cut(self, row: Floats, limit: float) -> None:
        self._rows.append(row)
        self._limits.append(limit)

    def _one_each(self, columns: Index) -> csr_array:
        """One width for every group: a row a group."""
        place = {number: row for row, number in enumerate(self.curves)}
        rows = [place[number] for number in self._group[columns].tolist()]
        entries = (np.ones(len(columns)), (rows, np.arange(len(columns))))
        return csr_array(entries, shape=(len(self.curves), len(columns)))

    def _fitting(self, share: Floats) -> Floats:
        """The changes (groups,) of a relaxed solution, drawn in until they are within budget."""
        groups, now = list(self.curves), self.model.widths.astype(np.float64)
        low = np.log(self._narrowest()[groups])
        high = np.add.reduceat(share * np.log(self._widths), self._ends[:-1])

        def fits(part: float) -> bool:
            widths = now.copy()
            widths[groups] = np.exp(low + part * (high - low))
            amounts = {name: self.model.tangent(name, widths)[0] for name in self.totals}
            if any(amounts[name] > total for name, total in self.totals.items()):
                return False
            return self.prices is None or bool(self.prices[0] @ (widths - now) <= self.prices[1])

        part = 1.0 if fits(1.0) else 0.0
        if not part:
            for step in 0.5 ** np.arange(1, 30):
                part += step if fits(part + step) else 0.0
        changes: Floats = np.exp(low + part * (high - low)) - now[groups]
        return changes

    def _near(self, middles: Floats) -> Index:
        """The columns around a change of each group, the next below it among them."""
        parts: list[Index] = []
        for start, end, mean in zip(self._ends[:-1], self._ends[1:], middles, strict=True):
            below = (
                start + int(np.searchsorted(self._changes[start:end], mean + CLOSE, "right")) - 1
            )
            parts.append(np.unique(np.clip(below + STEPS, start, end - 1)))
        return np.concatenate(parts)


def parts_of(curves: Mapping[int, Curve], changes: Mapping[int, int]) -> Sequence[int]:
    """The proposals behind a shape."""
    return [n for group, change in changes.items() for n in curves[group].chosen(change)]
