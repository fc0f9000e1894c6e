"""Latency and operations of the cells found, over the weight of the latency penalty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ramify.report.cell_figures import KINDS
from ramify.report.theme import LIGHT, canvas, themed

Row = dict[str, Any]


@themed
def figure(rows: Sequence[Row]) -> Figure:
    """Draw the measured latency at each weight, and the edges by kind of operation.

    Args:
        rows: results of the study.

    Returns:
        Two panels: one dot per search with the mean as a line, and stacked bars of means.
    """
    gammas = sorted({row["gamma"] for row in rows})
    own = [[row for row in rows if row["gamma"] == gamma] for gamma in gammas]
    places = np.arange(len(gammas))
    drawn = canvas(3.4)
    times, made = drawn.subplots(1, 2, width_ratios=(1, 1.25))
    for place, group in enumerate(own):
        values = [row["latency"] for row in group]
        times.plot([place] * len(values), values, "o", color=LIGHT["accent"], alpha=0.6)
    means = [np.mean([row["latency"] for row in group]) for group in own]
    times.plot(places, means, color=LIGHT["accent"], linewidth=2)
    times.set_ylim(bottom=0)
    times.set_ylabel("measured latency (ms)")
    below = np.zeros(len(gammas))
    for kind, words in KINDS.items():
        counts = np.array([np.mean([row["kinds"].get(kind, 0) for row in group]) for group in own])
        if counts.any():
            made.bar(places, counts, 0.6, below, color=LIGHT[f"op-{kind}"], label=words)
            below += counts
    made.set_ylabel("edges of both cells")
    made.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in (times, made):
        axes.set_xticks(places, [f"{gamma:g}" for gamma in gammas])
        axes.set_xlabel("γ, weight of a millisecond")
        axes.grid(False, axis="x")
    return drawn
