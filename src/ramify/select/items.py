"""The knapsack over proposals whose costs add up: hand-made ones, without a traced model.

Shape letters: `N` proposals, `R` budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, milp
from scipy.sparse import csr_array, vstack

from ramify.trace.layout import Index

Floats = NDArray[np.float64]
NODES = 20_000  # of one branch and bound
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

    def solve(self, exact: bool) -> tuple[Index | None, float]:
        """The best proposals within the budgets.

        Args:
            exact: whether to prove them the best, or to round the relaxed solution.

        Returns:
            Their numbers, None where nothing fits; and a bound on their value.
        """
        everything = np.arange(len(self.values))
        none = np.zeros(len(self.values))
        if exact:
            return self._whole(everything, none, 0.0)
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
        while True:
            open_ = np.flatnonzero(np.isin(self.pools, self.pools[order[:core]]))
            settled = np.where(np.isin(everything, open_), 0.0, np.round(found.x))
            taken, _ = self._whole(open_, settled, 1e-4)
            if taken is not None or core >= len(order):
                return taken, bound
            core *= 4

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

    def _whole(self, open_: Index, settled: Floats, gap: float) -> tuple[Index | None, float]:
        """Decide the open proposals, the others being settled (N,)."""
        rows, limits = self._rows()
        limits = limits - rows @ settled
        bound = np.inf
        for _ in range(20):
            found = milp(
                -self.values[open_] / self._scale,
                integrality=np.ones(len(open_)),
                bounds=(0, 1),
                constraints=(rows[:, open_], -np.inf, limits),
                options={"mip_rel_gap": gap, "node_limit": NODES},
            )
            if found.mip_dual_bound is not None and np.isinf(bound):
                bound = -found.mip_dual_bound * self._scale + float(self.values @ settled)
            if found.x is None:
                return None, bound
            whole = settled.astype(bool)
            whole[open_] = np.round(found.x).astype(bool)
            over = self.costs @ whole - self.budgets
            if (over <= 0).all():
                return np.flatnonzero(whole), bound
            size = np.maximum(np.abs(self.costs).max(axis=1), 1e-300)
            limits[: len(over)] -= TIGHTER * np.maximum(over, 0) / size
        return None, bound
