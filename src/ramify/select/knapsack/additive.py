"""The knapsack over proposals whose costs add up: hand-made ones, without a traced model.

Shape letters: `N` proposals, `R` budgets.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, milp
from scipy.sparse import csr_array, vstack

from ramify.tracing.indexing import Index

Floats = NDArray[np.float64]
CORE = 400  # proposals that rounding decides anew at first
TIGHTER = 2.0  # times what the solver's tolerances let a budget be exceeded by


@dataclass(frozen=True)
class Items:
    """One knapsack with additive costs.

    Attributes:
        values: (N,).
        costs: (R, N).
        budgets: (R,).
        pools: (N,) number of the channel that each proposal is for: at most one is taken of each.
        prunes: for each group whose channels are all proposed for pruning, those prunes: one stays.
    """

    values: Floats
    costs: Floats
    budgets: Floats
    pools: Index
    prunes: Sequence[Index]

    def solve(self, exact: bool, until: float) -> tuple[Index | None, float]:
        """The best proposals within the budgets.

        Args:
            exact: whether to prove them the best, or to round the relaxed solution.
            until: when to stop, by `time.monotonic`.

        Returns:
            Their numbers, None where none were found; and a bound on their value, -inf where
            nothing fits.
        """
        everything = np.arange(len(self.values))
        none = np.zeros(len(self.values))
        if exact:
            taken, bound = self._whole(everything, none, 0.0, until)
            if taken is None and bound > -np.inf:
                taken = self._sure(none)
            return taken, bound
        rows, limits = self._rows()
        scale = self._scale
        found = linprog(-self.values / scale, A_ub=rows, b_ub=limits, bounds=(0, 1), method="highs")
        if found.x is None:
            return None, -np.inf
        bound = -found.fun * scale
        # What a proposal is worth at the prices of the budgets says how sure its share is.
        worth = self.values / scale + found.ineqlin.marginals @ rows
        unsure = np.where(np.isclose(found.x, np.round(found.x)), np.abs(worth), -1.0)
        order, core = np.argsort(unsure, kind="stable"), CORE
        while time.monotonic() < until:
            open_ = np.flatnonzero(np.isin(self.pools, self.pools[order[:core]]))
            settled = np.where(np.isin(everything, open_), 0.0, np.round(found.x))
            taken, limit = self._whole(open_, settled, 1e-4, until)
            if taken is not None:
                return taken, bound
            if core >= len(order):
                return (None, limit) if limit == -np.inf else (self._sure(found.x), bound)
            core *= 4
        return self._sure(found.x), bound

    def _most(self) -> float:
        """What the best proposal of each channel would be worth without budgets."""
        best = np.zeros(int(self.pools.max()) + 1)
        np.maximum.at(best, self.pools, self.values)
        return float(best.sum())

    def _sure(self, shares: Floats) -> Index | None:
        """What shares (N,) take whole, or nothing at all, whichever is within the budgets."""
        for taken in (shares > 1 - 1e-6, np.zeros(len(shares), dtype=bool)):
            if (self.costs @ taken <= self.budgets).all():
                return np.flatnonzero(taken)
        return None

    @property
    def _scale(self) -> float:
        return max(float(np.abs(self.values).max()), 1e-300) / 1e3

    def _rows(self) -> tuple[csr_array, Floats]:
        """All constraints as rows @ x <= limits, budgets first, each row's largest entry 1."""
        count = len(self.values)
        size = np.maximum(np.abs(self.costs).max(axis=1), 1e-300)
        _, pool = np.unique(self.pools, return_inverse=True)
        ones = csr_array((np.ones(count), (pool, np.arange(count))))
        parts = [csr_array(self.costs / size[:, None]), ones]
        limits = [self.budgets / size, np.ones(ones.shape[0])]
        for prunes in self.prunes:
            where = (np.zeros(len(prunes), dtype=int), prunes)
            parts.append(csr_array((np.ones(len(prunes)), where), shape=(1, count)))
            limits.append(np.array([len(prunes) - 1.0]))
        return vstack(parts, format="csr"), np.concatenate(limits)

    def _whole(
        self, open_: Index, settled: Floats, gap: float, until: float
    ) -> tuple[Index | None, float]:
        """Decide the open proposals, the others being settled (N,); -inf where nothing fits."""
        rows, limits = self._rows()
        limits = limits - rows @ settled
        bound, bounded = self._most(), False
        for attempt in range(20):
            found = milp(
                -self.values[open_] / self._scale,
                integrality=np.ones(len(open_)),
                bounds=(0, 1),
                constraints=(rows[:, open_], -np.inf, limits),
                options={"mip_rel_gap": gap, "time_limit": max(until - time.monotonic(), 0.1)},
            )
            if found.mip_dual_bound is not None and not bounded:
                bounded = True
                limit = -found.mip_dual_bound * self._scale + float(self.values @ settled)
                bound = min(bound, limit)
            if found.x is None:
                # It is proven only where no budget was drawn in yet.
                return None, (-np.inf if found.status == 2 and attempt == 0 else bound)
            whole = settled.astype(bool)
            whole[open_] = np.round(found.x).astype(bool)
            over = self.costs @ whole - self.budgets
            if (over <= 0).all():
                return np.flatnonzero(whole), bound
            size = np.maximum(np.abs(self.costs).max(axis=1), 1e-300)
            limits[: len(over)] -= TIGHTER * np.maximum(over, 0) / size
        return None, bound
