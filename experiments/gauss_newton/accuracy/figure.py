"""The figure: estimated and true changes (Figure 3), and ways to find a split (Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.files import png
from experiments.gauss_newton.accuracy.study import summary
from ramify.report.theme import LIGHT, themed

INK, SOFT = LIGHT["ink"], LIGHT["soft"]
SPLIT, PRUNE = "#c0392b", "#3f68c8"  # Gauss-Newton, Figure 2: red splits, blue prunes
BARS = ("#8a4fae", "#3f68c8", LIGHT["accent"])  # a learner each
RIVAL_BARS = {"line search": "#b09a12", "expansion": "#8a8f98"}


def figure(result: dict[str, Any]) -> bytes:
    """The figure of one network as a PNG.

    Args:
        result: from :func:`experiments.gauss_newton.accuracy.study.run`. Estimates are drawn for
            its last learner.

    Returns:
        The file's bytes.
    """
    return png(_draw(result))


@themed
def _draw(result: dict[str, Any]) -> Figure:
    learner = result["settings"]["learners"][-1]
    points = [point for point in result["points"] if point["learner"] == learner]
    rows = summary(points)
    groups = list(dict.fromkeys(row["group"] for row in rows))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    tall = len(kinds) + bool(result["splits"])
    drawn = Figure(
        figsize=(max(3.9 * len(groups), 8.0), 3.7 * tall),
        layout=ConstrainedLayoutEngine(h_pad=0.12),
    )
    grid = drawn.add_gridspec(tall, len(groups))
    for row in rows:
        place = kinds.index(row["kind"]), groups.index(row["group"])
        mine = [p for p in points if (p["group"], p["kind"]) == (row["group"], row["kind"])]
        _scatter(drawn.add_subplot(grid[place]), row, mine)
    if result["splits"]:
        _bars(drawn.add_subplot(grid[-1, :]), result["splits"], groups[0])
    return drawn


def _scatter(axes: Axes, row: dict[str, Any], points: Sequence[dict[str, Any]]) -> None:
    estimated = np.array([p["estimated"] for p in points])
    true = np.array([p["test"] for p in points])
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


def _bars(axes: Axes, splits: Sequence[dict[str, Any]], group: str) -> None:
    ways = list(dict.fromkeys(split["way"] for split in splits))
    height = {(split["way"], split["channel"]): split["test"] for split in splits}
    channels = {split["channel"] for split in splits}
    ranked = sorted(channels, key=lambda channel: height["expansion", channel])
    places, width = np.arange(len(ranked)), 0.8 / len(ways)
    for number, way in enumerate(ways):
        axes.bar(
            places + width * (number - (len(ways) - 1) / 2),
            [height[way, channel] for channel in ranked],
            0.9 * width,
            color=RIVAL_BARS.get(way) or BARS[number % len(BARS)],
            label=way,
        )
    axes.axhline(0, color=INK, lw=0.8)
    axes.set(
        title=f"True decrease of the test loss by a split of each channel of {group}",
        xlabel="channel, ordered by the expanded network's decrease",
        ylabel="decrease of the loss",
        xticks=[],
    )
    axes.legend(ncols=len(ways))
