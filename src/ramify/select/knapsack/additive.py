"""The knapsack over proposals with additive costs: made by hand, without a traced model.

Shape letters: `N` proposals, `R` budgets.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import scipy  # its submodules are imported on use

from ramify.select.knapsack.solver import milp
from ramify.tracing.indexing import Floats, Index

UNSURE = 400  # proposals in the first integer program, where the result need not be exact
CLOSE = 1e-4  # the relative gap of that program
TIGHTER = 2.0  # budgets are lowered by this times the solver's violation


@dataclass(frozen=True)
class AdditiveKnapsack:
    """One knapsack: take or leave each proposal, with at most one per channel.

    Attributes:
        values: (N,).
        costs: (R, N).
        budgets: (R,).
        channels: (N,), the channel number of each proposal.
        prunes: for each group whose channels all have a prune, those prunes: at least one is not
            made.
    """

    values: Floats
    costs: Floats
    budgets: Floats
    channels: Index
    prunes: list[Index]

    def solve(self, exact: bool, until: float) -> tuple[Index | None, float]:
        """The proposals to take.

        The linear relaxation bounds the value, and is integral for all but a few proposals. A
        mixed-integer program decides the least certain ones: all of them for an exact result, else
        a few, and more only where those few allow no feasible selection.

        Args:
            exact: whether to find the optimum and prove it.
            until: when to stop, by `time.monotonic`.

        Returns:
            Their numbers, None if none were found; and a bound on their value, -inf if nothing
            fits.
        """
        rows, limits = self._rows()
        relaxed = scipy.optimize.linprog(
            -self.values / self._scale, A_ub=rows, b_ub=limits, bounds=(0, 1), method="highs"
        )
        if relaxed.x is None:
            return None, -np.inf
        bound = -relaxed.fun * self._scale
        # The reduced value of a proposal at the budgets' prices shows how certain its share is.
        worth = self.values / self._scale + relaxed.ineqlin.marginals @ rows
        nearly = np.round(relaxed.x)
        order = np.argsort(
            np.where(np.isclose(relaxed.x, nearly), np.abs(worth), -1.0), kind="stable"
        )
        size, gap = (len(order), 0.0) if exact else (UNSURE, CLOSE)
        while time.monotonic() < until:
            open_ = np.isin(self.channels, self.channels[order[:size]])
            settled = np.where(open_, 0.0, nearly)
            taken, limit = self._decided(np.flatnonzero(open_), settled, gap, until)
            every = size >= len(order)
            if every:
                bound = min(bound, limit)
            if taken is not None:
                return taken, bound
            if every:
                break
            size *= 4
        # Out of time: the proposals that the relaxation takes fully, or none at all.
        for whole in (relaxed.x > 1 - 1e-6, np.zeros(len(order), dtype=bool)):
            if bound > -np.inf and (self.costs @ whole <= self.budgets).all():
                return np.flatnonzero(whole), bound
        return None, bound

    @property
    def _scale(self) -> float:
        """The divisor of values for the solver, whose tolerances are absolute."""
        return max(float(np.abs(self.values).max()), 1e-300) / 1e3

    @property
    def _sizes(self) -> Floats:
        """(R,), the divisors of costs for the solver."""
        return np.maximum(np.abs(self.costs).max(axis=1), 1e-300)

    def _rows(self) -> tuple[scipy.sparse.csr_array, Floats]:
        """All constraints as rows @ x <= limits, budgets first, each row's largest entry 1."""
        count = len(self.values)
        _, channel = np.unique(self.channels, return_inverse=True)
        one_each = scipy.sparse.csr_array((np.ones(count), (channel, np.arange(count))))
        parts = [scipy.sparse.csr_array(self.costs / self._sizes[:, None]), one_each]
        limits = [self.budgets / self._sizes, np.ones(one_each.shape[0])]
        for prunes in self.prunes:  # one channel of the group remains
            where = (np.zeros(len(prunes), dtype=int), prunes)
            parts.append(scipy.sparse.csr_array((np.ones(len(prunes)), where), shape=(1, count)))
            limits.append(np.array([len(prunes) - 1.0]))
        return scipy.sparse.vstack(parts, format="csr"), np.concatenate(limits)

    def _decided(
        self, open_: Index, settled: Floats, gap: float, until: float
    ) -> tuple[Index | None, float]:
        """Decide the open proposals, with the others settled (N,); -inf if nothing fits."""
        rows, limits = self._rows()
        limits = limits - rows @ settled
        bound = np.inf
        for attempt in range(20):
            found = milp(
                -self.values[open_] / self._scale,
                integrality=np.ones(len(open_)),
                bounds=(0, 1),
                constraints=(rows[:, open_], -np.inf, limits),
                options={"mip_rel_gap": gap, "time_limit": max(until - time.monotonic(), 0.1)},
            )
            if found.mip_dual_bound is not None and attempt == 0:
                bound = -found.mip_dual_bound * self._scale + float(self.values @ settled)
            if found.x is None:
                # The bound is proven only if no budget has been lowered yet.
                return None, (-np.inf if found.status == 2 and attempt == 0 else bound)
            whole = settled.astype(bool)
            whole[open_] = np.round(found.x).astype(bool)
            over = self.costs @ whole - self.budgets
            if (over <= 0).all():
                return np.flatnonzero(whole), bound
            limits[: len(over)] -= TIGHTER * np.maximum(over, 0) / self._sizes
        return None, bound
