"""The figure: estimated against true changes (Figure 3), and ways of finding a split (Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.files import png
from experiments.gauss_newton.accuracy.study import WAYS, summary
from ramify.report.theme import LIGHT, themed

INK, SOFT = LIGHT["ink"], LIGHT["soft"]
SPLIT, PRUNE = "#c0392b", "#3f68c8"  # Gauss-Newton, Figure 2: red splits, blue prunes
BARS = {"gauss-newton": LIGHT["accent"], "line search": "#b09a12", "expansion": "#8a4fae"}


def figure(result: dict[str, Any]) -> bytes:
    """The figure of one network as a PNG.

    Args:
        result: from :func:`experiments.gauss_newton.accuracy.study.run`.

    Returns:
        The file's bytes.
    """
    return png(_draw(result))


@themed
def _draw(result: dict[str, Any]) -> Figure:
    rows = summary(result["points"])
    groups = list(dict.fromkeys(row["group"] for row in rows))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    tall = len(kinds) + bool(result["rivals"])
    drawn = Figure(
        figsize=(max(3.9 * len(groups), 8.0), 3.7 * tall),
        layout=ConstrainedLayoutEngine(h_pad=0.12),
    )
    grid = drawn.add_gridspec(tall, len(groups))
    for row in rows:
        place = kinds.index(row["kind"]), groups.index(row["group"])
        mine = [
            p for p in result["points"] if (p["group"], p["kind"]) == (row["group"], row["kind"])
        ]
        _scatter(drawn.add_subplot(grid[place]), row, mine)
    if result["rivals"]:
        _bars(drawn.add_subplot(grid[-1, :]), result["rivals"], groups[0])
    return drawn


def _scatter(axes: Axes, row: dict[str, Any], points: Sequence[dict[str, Any]]) -> None:
    estimated = np.array([p["estimated"] for p in points])
    true = np.array([p["true"] for p in points])
    ends = min(estimated.min(), true.min()), max(estimated.max(), true.max())
    axes.axline((0, 0), slope=1, color=SOFT, ls="--", lw=1)
    color = SPLIT if row["kind"] == "split" else PRUNE
    axes.scatter(estimated, true, s=22, facecolor="none", edgecolor=color, lw=1.1)
    pad = 0.06 * (ends[1] - ends[0])
    axes.set(
        title=f"{row['kind']}s of {row['group']}: r = {row['r']:.2f}",
        xlabel="estimated ΔL",
        ylabel="true ΔL",
        xlim=(ends[0] - pad, ends[1] + pad),
        ylim=(ends[0] - pad, ends[1] + pad),
    )


def _bars(axes: Axes, rows: Sequence[dict[str, Any]], group: str) -> None:
    ranked = sorted(rows, key=lambda row: row["expansion"])
    places = np.arange(len(ranked))
    for number, way in enumerate(WAYS):
        heights = [row[way] for row in ranked]
        axes.bar(places + 0.27 * (number - 1), heights, 0.25, color=BARS[way], label=way)
    axes.axhline(0, color=INK, lw=0.8)
    axes.set(
        title=f"True decrease of the test loss by a split of each channel of {group}",
        xlabel="channel, ordered by the expanded network's decrease",
        ylabel="decrease of the loss",
        xticks=[],
    )
    axes.legend(ncols=3)
