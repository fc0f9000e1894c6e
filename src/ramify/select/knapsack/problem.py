"""The knapsack over the widths of a traced model: the possible widths, and the budgets.

Shape letters: `W` groups of the graph, `G` groups with proposals, `N` columns: one for each width
that a group can get, grouped by group, with rising widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ramify.cost import CostModel
from ramify.select.candidates import Candidates
from ramify.select.knapsack.value_curve import ValueCurve, rising_values
from ramify.select.rounding import options_by_channel
from ramify.tracing.indexing import Floats, Index


@dataclass(frozen=True)
class Budgets:
    """The limits on widths.

    Attributes:
        model: the cost of the traced model.
        totals: the most that the edited model may have of each resource.
        line: what one more channel of each group adds (W,), never below 0, and the limit on their
            sum: a budget of latency, approximated as linear.
    """

    model: CostModel
    totals: Mapping[str, float]
    line: tuple[Floats, float] | None = None

    def fit(self, widths: Index) -> bool:
        """Whether widths (W,) are within all budgets."""
        cost = self.model.cost(widths)
        return all(cost.of(name) <= total for name, total in self.totals.items()) and (
            self.line is None or self._along_line(widths) <= self.line[1]
        )

    def _along_line(self, widths: Index) -> float:
        assert self.line is not None
        return float(self.line[0] @ (widths - self.model.widths))

    def between(self, widths: Index, first: int, second: int) -> list[tuple[Floats, float]]:
        """Each budget for two groups: a polynomial in their widths (P, P), and its limit."""
        found = [
            (self.model.between(name, widths, first, second), total)
            for name, total in self.totals.items()
        ]
        if self.line is not None:
            each, most = self.line
            linear = np.array([[0.0, each[second]], [each[first], 0.0]])
            own = float(each[[first, second]] @ widths[[first, second]])
            found.append((linear, most - (self._along_line(widths) - own)))
        return found


class WidthChoices:
    """Every width that the groups can get, in one table: one column each, with its best value.

    A choice of widths is the column of each group, (G,).

    Args:
        candidates: the proposals, with their graph.
        model: the cost of the traced model.
        multiples: the number that each group's width becomes a multiple of, by its name.

    Attributes:
        groups: (G,), the number of each group in the cost model.
        start: (G,), the first column of each group, for its smallest width.
        stop: (G,), the column after its last.
        place: (N,), which of the G groups a column belongs to.
        widths: (N,), the width of each column.
        values: (N,), the value of each column, rising within a group.
    """

    def __init__(
        self, candidates: Candidates, model: CostModel, multiples: Mapping[str, int]
    ) -> None:
        worth = [proposal.value for proposal in candidates.proposals]
        number = {name: number for number, name in enumerate(model.names)}
        self._now = model.widths
        self._curves: list[ValueCurve] = []
        groups = []
        for name, own in candidates.by_group(range(len(worth))).items():
            options = options_by_channel(candidates, own, worth)
            width = candidates.widths[name]
            self._curves.append(rising_values(options, width, multiples.get(name, 1)))
            groups.append(number[name])
        sizes = [len(curve.changes) for curve in self._curves]
        self.groups: Index = np.array(groups, dtype=np.int64)
        self.stop: Index = np.cumsum(sizes)
        self.start: Index = self.stop - sizes
        self.place = np.repeat(np.arange(len(sizes)), sizes)
        self.values = np.concatenate([curve.values for curve in self._curves])
        changes = np.concatenate([curve.changes for curve in self._curves])
        self.widths = self._now[self.groups[self.place]] + changes

    def all_widths(self, choice: Index) -> Index:
        """The widths (W,) of the whole model for a choice (G,)."""
        widths = self._now.copy()
        widths[self.groups] = self.widths[choice]
        return widths

    def value(self, choice: Index) -> float:
        """The value of a choice (G,)."""
        return float(self.values[choice].sum())

    def proposals(self, widths: Index) -> Sequence[int]:
        """The numbers of the proposals that give widths (W,) of the table."""
        changes = (widths - self._now)[self.groups].tolist()
        return [
            number
            for curve, change in zip(self._curves, changes, strict=True)
            for number in curve.chosen(change)
        ]
