"""Shapes within a limit that climbs by steps: widths up to where the next step begins.

Shape letters: `W` groups of the graph, `S` shapes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ramify.select.knapsack.value_curve import Curve
from ramify.tracing.indexing import Index

AHEAD = 16  # widths of a group that are looked at


def filled(
    curves: Mapping[int, Curve],
    shape: Index,
    now: Index,
    fits: Callable[[Index], NDArray[np.bool_]],
    until: float,
) -> Index:
    """Widen a shape that fits, a group at a time, as long as that is worth more and fits.

    Args:
        curves: what widths are worth, by number of the group.
        shape: (W,), the widths; those of groups with a curve are on it.
        now: (W,), the widths before any edit.
        fits: for shapes (S, W), whether each is within the limits (S,).
        until: when to stop, by `time.monotonic`.

    Returns:
        The widths (W,).
    """
    shape, moved = shape.copy(), True
    while moved:
        moved = False
        for group, curve in curves.items():
            if time.monotonic() >= until:
                return shape
            at = int(np.searchsorted(curve.changes, shape[group] - now[group]))
            onward = curve.changes[at + 1 : at + 1 + AHEAD]
            if len(onward) == 0:
                continue
            shapes = np.repeat(shape[None], len(onward), axis=0)
            shapes[:, group] = now[group] + onward
            found = np.flatnonzero(fits(shapes))
            if len(found):
                shape, moved = shapes[found[-1]], True
    return shape
