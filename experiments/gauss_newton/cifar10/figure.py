"""The Pareto figure: accuracy against parameters, during training and at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.files import png
from experiments.gauss_newton.cifar10.study import ARMS
from experiments.gauss_newton.cifar10.table import rows
from ramify.report.theme import LIGHT, themed

COLORS = dict(
    zip(
        ARMS,
        (
            LIGHT["accent"],
            "#2f9e8f",
            "#3f68c8",
            "#8a4fae",
            "#b09a12",
            "#777777",
            "#c4641b",
            "#c0392b",
            "#d98880",
            "#e6b0aa",
            "#7b241c",
            "#1f2d6d",
        ),
        strict=True,
    )
)


def figure(results: Sequence[dict[str, Any]]) -> bytes:
    """The figure as a PNG.

    Args:
        results: of the study.

    Returns:
        The file's bytes.
    """
    return png(_draw(results))


@themed
def _draw(results: Sequence[dict[str, Any]]) -> Figure:
    drawn = Figure(figsize=(12.5, 5.4), layout=ConstrainedLayoutEngine(w_pad=0.12))
    left, middle, right = drawn.subplots(1, 3, width_ratios=(1.25, 1, 1.1))
    _paths(left, results)
    _finals(middle, results)
    _shapes(right, results)
    return drawn


def _paths(axes: Axes, results: Sequence[dict[str, Any]]) -> None:
    for arm, title in ARMS.items():
        mine = [result for result in results if result["arm"] == arm]
        for number, result in enumerate(mine):
            params = [point["params"] / 1e3 for point in result["path"]]
            accuracy = [100 * point["accuracy"] for point in result["path"]]
            label = title if number == 0 else None
            axes.plot(params, accuracy, "-", color=COLORS[arm], lw=1, alpha=0.6)
            axes.plot(params[-1:], accuracy[-1:], "o", color=COLORS[arm], ms=5, label=label)
    axes.set(
        title="On the way, and at the end (dot)",
        xlabel="parameters, thousands",
        ylabel="test accuracy, %",
    )
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _finals(axes: Axes, results: Sequence[dict[str, Any]]) -> None:
    ranked = rows(results)[::-1]
    for place, row in enumerate(ranked):
        axes.barh(place, row["mean"], color=COLORS[row["arm"]], alpha=0.35)
        axes.plot(row["accuracies"], [place] * len(row["accuracies"]), "o", ms=4, color="black")
    low = min(min(row["accuracies"]) for row in ranked)
    high = max(max(row["accuracies"]) for row in ranked)
    axes.set(
        title="At the end, each seed a dot",
        xlabel="test accuracy, %",
        yticks=range(len(ranked)),
        yticklabels=[row["title"] for row in ranked],
        xlim=(low - 0.5 * (high - low) - 0.5, high + 0.3),
    )


def _shapes(axes: Axes, results: Sequence[dict[str, Any]]) -> None:
    for arm in ARMS:
        mine = [np.array(result["widths"]) for result in results if result["arm"] == arm]
        if mine:
            axes.plot(np.mean(mine, axis=0), ".-", color=COLORS[arm], lw=1.2, ms=4)
    axes.set(
        title="Widths found, mean of the seeds",
        xlabel="layer group, from the input",
        ylabel="width",
    )
    axes.set_ylim(bottom=0)
