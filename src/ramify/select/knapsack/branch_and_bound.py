"""The knapsack over the widths of a traced model: values are curves, costs are polynomials.

Branch and bound over boxes of widths: each box is bounded by a linear program (`relaxed`), the
relaxed shape is rounded and improved (`swaps`), and the group whose widths the program mixes most
has its range cut in two. A small knapsack is a mixed-integer program instead, with a cut for every
shape over budget that it finds.

Shape letters: `W` groups of the graph, `G` groups with a curve, `N` columns: one for each width
that a group can get.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import milp

from ramify.select.knapsack.linear_bound import Box, Relaxation
from ramify.select.knapsack.local_search import Budgets, improved
from ramify.select.knapsack.value_curve import Curve, Floats
from ramify.tracing.indexing import Index

PROVEN = 1e-6  # the relative gap at which a search ends


class Shapes:
    """One knapsack: curves of some groups, and budgets on the whole model.

    Args:
        budgets: what shapes must hold to.
        curves: what widths are worth, by number of the group.
    """

    def __init__(self, budgets: Budgets, curves: Mapping[int, Curve]) -> None:
        self._budgets, self._curves = budgets, curves
        self._relaxation = Relaxation(budgets, curves)
        self._bare: Index = self._relaxation.whole().low

    def short(self) -> dict[str, float]:
        """By how much the narrowest shape is over each budget; where it is, no shape fits."""
        cost = self._budgets.model.cost(self._relaxation.shape(self._bare))
        over = {name: cost.of(name) - total for name, total in self._budgets.totals.items()}
        return {name: excess for name, excess in over.items() if excess > 0}

    def solve(self, exact: bool, until: float) -> tuple[dict[int, int] | None, float]:
        """The best shape that fits.

        Args:
            exact: whether to look for it by a mixed-integer program first.
            until: when to stop, by `time.monotonic`.

        Returns:
            The change of each group's width, None where nothing fits; and a bound on the value.
        """
        if not self._budgets.fit(self._relaxation.shape(self._bare)):
            return None, -np.inf  # costs rise with widths
        best, bound = self._bare, np.inf
        if exact:
            found, bound = self._programmed(until - (until - time.monotonic()) / 2)
            if found is not None:
                return self._changes(found), bound
        best, limit = self._searched(best, until)
        return self._changes(best), min(bound, limit)

    def _changes(self, columns: Index) -> dict[int, int]:
        widths = self._relaxation.shape(columns) - self._budgets.model.widths
        return {number: int(widths[number]) for number in self._curves}

    def _value(self, columns: Index) -> float:
        return float(self._relaxation.values[columns].sum())

    # Branch and bound over boxes ---------------------------------------------------------------

    def _searched(self, best: Index, until: float) -> tuple[Index, float]:
        """The best columns (G,) found, and a bound on the value of any that fit."""
        start = time.monotonic()
        best = self._improved(best, start + (until - start) / 4)
        order = itertools.count()
        root = self._relaxation.tightened(self._relaxation.whole(), self._value(best), until)
        boxes, settled = [(-root.bound, next(order), root)], -np.inf
        while boxes and time.monotonic() < until:
            value = self._value(best)
            if -boxes[0][0] <= value + PROVEN * abs(value):
                break
            _, _, box = heapq.heappop(boxes)
            best = self._rounded(box, best, until)
            parts = self._halves(box)
            if not parts:
                settled = max(settled, box.bound)
            for part in parts:
                inner = self._relaxation.tightened(part, self._value(best), until)
                if inner.bound > self._value(best):
                    heapq.heappush(boxes, (-inner.bound, next(order), inner))
        return best, max(settled, self._value(best), *(-bound for bound, _, _ in boxes[:1]))

    def _improved(self, columns: Index, until: float) -> Index:
        first = self._relaxation.ends[:-1]
        at = dict(zip(self._curves, (columns - first).tolist(), strict=True))
        moved = improved(self._budgets, self._curves, at, until)
        return first + np.array(list(moved.values()))

    def _rounded(self, box: Box, best: Index, until: float) -> Index:
        """The better of a shape and one made from the relaxed shape of a box."""
        if box.share is None:
            return best
        middle = np.clip(self._relaxation.middle(box.share), box.low, box.high)
        fits = self._improved(self._drawn_in(middle), until)
        return fits if self._value(fits) > self._value(best) else best

    def _drawn_in(self, columns: Index) -> Index:
        """Columns (G,) that fit: towards the narrowest, all by the same part of the way."""
        low, high = 0, 1 << 12

        def at(part: int) -> Index:
            return self._bare + (columns - self._bare) * part // (1 << 12)

        while low < high:
            part = (low + high + 1) // 2
            fits = self._budgets.fit(self._relaxation.shape(at(part)))
            low, high = (part, high) if fits else (low, part - 1)
        return at(low)

    def _halves(self, box: Box) -> list[Box]:
        """The box cut in two where the relaxed shape mixes widths most; none where it does not."""
        relaxation, ends = self._relaxation, self._relaxation.ends[:-1]
        if box.share is None:
            mixed: Floats = (box.high - box.low).astype(np.float64)
            middle = (box.low + box.high) // 2
        else:
            middle = np.clip(relaxation.middle(box.share), box.low, box.high)
            promised = np.add.reduceat(box.share * relaxation.values, ends)
            mixed = promised - relaxation.values[middle]
        mixed[box.low >= box.high] = 0.0
        place = int(mixed.argmax())
        if mixed[place] <= 0:
            return []
        left, right = box.high.copy(), box.low.copy()
        left[place] = min(middle[place], box.high[place] - 1)
        right[place] = left[place] + 1
        return [Box(box.low, left, box.bound), Box(right, box.high, box.bound)]

    # Mixed-integer program ----------------------------------------------------------------------

    def _programmed(self, until: float) -> tuple[Index | None, float]:
        """The best columns (G,) that fit, where they are proven so; and a bound on the value."""
        relaxation, whole = self._relaxation, self._relaxation.whole()
        bound = whole.bound
        cuts, limits = (list(part) for part in relaxation.cuts(whole.low, whole.high))
        while (left := until - time.monotonic()) > 0:
            each = relaxation.one_each(np.arange(len(relaxation.values)))
            constraints: list[tuple[Any, Any, Any]] = [(each, 1.0, 1.0)]
            constraints.append((np.array(cuts), -np.inf, np.array(limits)))
            found = milp(
                -relaxation.unit * relaxation.values,
                integrality=np.ones(len(relaxation.values)),
                bounds=(0, 1),
                constraints=constraints,
                options={"mip_rel_gap": 0.0, "time_limit": left},
            )
            if found.mip_dual_bound is not None:
                bound = min(bound, -found.mip_dual_bound / relaxation.unit)
            if found.x is None or found.status:
                break
            columns = np.flatnonzero(np.round(found.x))
            if self._budgets.fit(relaxation.shape(columns)):
                return columns, bound
            for name in self._budgets.totals:
                if relaxation.touch(name, relaxation.shape(columns).astype(np.float64)) > 0:
                    row, limit = relaxation.tangents[-1]
                    cuts, limits = [*cuts, row], [*limits, limit]
            # What is nowhere narrower is over budget too.
            wider = relaxation.inside(columns, whole.high).astype(np.float64)
            cuts.append(wider)
            limits.append(len(columns) - 1.0)
        return None, bound


def parts_of(curves: Mapping[int, Curve], changes: Mapping[int, int]) -> Sequence[int]:
    """The proposals behind a shape."""
    return [n for group, change in changes.items() for n in curves[group].chosen(change)]
