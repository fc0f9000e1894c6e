"""The knapsack within milliseconds: chosen by the predicted latency, then measured.

About one shape (the widths of all groups) the latency is taken for a line in the widths; the best
shape by that line is where the next line is taken. The latency climbs by steps, so widths are then
widened up to where the next step begins.

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
from ramify.select.knapsack.value_curve import Floats
from ramify.tracing.indexing import Index

LINES = 6  # shapes about which the predicted latency is taken for a line
AHEAD = 16  # widths of a group that are looked at

Solve = Callable[[tuple[Floats, float]], tuple[Index, float]]
"""The best choice (G,) within a line (see `Budgets`), and a bound on the value of any."""


def best_predicted(
    choices: WidthChoices,
    budgets: Budgets,
    predicted: LatencyModel,
    most: float,
    solve: Solve,
    seconds: float,
) -> tuple[Index, float]:
    """The best widths found that are predicted to add at most `most` milliseconds.

    Args:
        choices: the widths to choose from.
        budgets: the counted ones.
        predicted: the model of the latency.
        most: milliseconds to add; the narrowest widths add no more.
        solve: solves the knapsack with a line for the latency.
        seconds: how long to widen.

    Returns:
        The widths (W,), and the bound of the last line.
    """
    present = budgets.model.widths
    now, least = predicted.at(present), choices.all_widths(choices.start)
    about = least if most < 0 else present
    best, value = least, -math.inf
    for _ in range(LINES):
        each = slopes(predicted, about)
        limit = most + now - predicted.at(about) + float(each @ (about - present))
        limit = max(limit, float(each @ (least - present)))  # the least does fit
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
    """Widen a shape that fits, a group at a time, as long as that is worth more and fits.

    Args:
        choices: the widths to choose from; a wider one of a group is worth more.
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
