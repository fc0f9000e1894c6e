"""The knapsack with a latency budget: shapes are chosen by predicted latency, then measured.

Around one shape (the widths of all groups) the latency is approximated as linear in the widths; the
best shape under this approximation is where the next one is made. Latency rises in steps, so widths
are then increased up to where the next step begins.

Shape letters: `W` groups of the graph, `G` groups with proposals, `S` shapes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ramify.latency import LatencyModel
from ramify.latency.prediction import slopes
from ramify.select.knapsack.problem import Budgets, WidthChoices
from ramify.tracing.indexing import Floats, Index

LINES = 6  # shapes around which the predicted latency is linearised
AHEAD = 16  # larger widths of a group to try

Solve = Callable[[tuple[Floats, float]], tuple[Index, float]]
"""The best choice (G,) within a line (see `Budgets`), and a bound on any choice's value."""


def best_predicted(
    choices: WidthChoices,
    budgets: Budgets,
    predicted: LatencyModel,
    most: float,
    solve: Solve,
    seconds: float,
) -> tuple[Index, float]:
    """The best widths found that add at most `most` milliseconds, as predicted.

    Args:
        choices: the widths to choose from.
        budgets: the budgets of counted resources.
        predicted: the latency model.
        most: milliseconds to add; the narrowest widths add no more.
        solve: solves the knapsack with a linear latency.
        seconds: how long to widen.

    Returns:
        The widths (W,), and the bound of the last linear approximation.
    """
    present = budgets.model.widths
    now, least = predicted.at(present), choices.all_widths(choices.start)
    about = least if most < 0 else present
    best, value = least, -math.inf
    for _ in range(LINES):
        each = slopes(predicted, about)
        limit = most + now - predicted.at(about) + float(each @ (about - present))
        limit = max(limit, float(each @ (least - present)))  # the narrowest shape does fit
        choice, bound = solve((each, limit))
        widths = choices.all_widths(choice)
        if predicted.at(widths) - now <= most and choices.value(choice) > value:
            best, value = widths, choices.value(choice)
        if (widths == about).all():
            break
        about = widths

    def fits(shapes: Index) -> NDArray[np.bool_]:
        counted = [budgets.fit(shape) for shape in shapes]
        return (predicted.at_each(shapes) - now <= most) & np.array(counted)

    return widened(choices, best, fits, time.monotonic() + seconds), bound


def widened(
    choices: WidthChoices,
    widths: Index,
    fits: Callable[[Index], NDArray[np.bool_]],
    until: float,
) -> Index:
    """Widen a shape that fits, one group at a time, as long as the result fits.

    Args:
        choices: the widths to choose from; a larger width of a group has a larger value.
        widths: (W,), widths of the table.
        fits: for shapes (S, W), whether each is within the limits (S,).
        until: when to stop, by `time.monotonic`.

    Returns:
        The widths (W,).
    """
    widths, moved = widths.copy(), True
    groups: Sequence[tuple[int, int, int]] = list(
        zip(choices.groups.tolist(), choices.start.tolist(), choices.stop.tolist(), strict=True)
    )
    while moved:
        moved = False
        for group, start, stop in groups:
            if time.monotonic() >= until:
                return widths
            own = choices.widths[start:stop]
            onward = own[np.searchsorted(own, widths[group]) + 1 :][:AHEAD]
            if len(onward) == 0:
                continue
            shapes = np.repeat(widths[None], len(onward), axis=0)
            shapes[:, group] = onward
            found = np.flatnonzero(fits(shapes))
            if len(found):
                widths, moved = shapes[found[-1]], True
    return widths
