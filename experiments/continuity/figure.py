"""The figure: the loss around an edit, by what happens to the optimizer state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from experiments.continuity.networks import NETWORKS, OPTIMIZERS
from experiments.continuity.study import ARMS
from experiments.continuity.table import cases, losses, of_case
from ramify.report.theme import LIGHT, themed

COLORS = {
    "carried": LIGHT["accent"],
    "statistics": "#3f68c8",
    "fresh": "#c4641b",
    "zeroed": "#8a4fae",
}


@themed
def figure(results: Sequence[dict[str, Any]]) -> Figure:
    """One panel for each network, optimizer and edit: every seed as a thin line, and their mean.

    Args:
        results: of every seed.

    Returns:
        The figure.
    """
    found = cases(results)
    columns = 2
    rows = -(-len(found) // columns)
    drawn = Figure(
        figsize=(11.5, 3.3 * rows), layout=ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.1)
    )
    panels = drawn.subplots(rows, columns, squeeze=False).ravel()
    for axes, case in zip(panels, found, strict=False):
        _panel(axes, of_case(results, case), case)
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    drawn.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
    return drawn


def _panel(axes: Axes, results: Sequence[dict[str, Any]], case: tuple[str, str, str]) -> None:
    network, optimizer, kind = case
    window = results[0]["settings"]["window"]
    none = [losses(result["none"], 2) for result in results]
    _line(axes, none, window, LIGHT["soft"], "no edit", "--")
    highest = 0.0
    for arm in results[0]["edits"][kind]["arms"]:
        curves = [losses(result["edits"][kind]["arms"][arm], 2) for result in results]
        mean = _line(axes, curves, window, COLORS[arm], ARMS[arm])
        highest = max(highest, mean[1:].max()) if arm != "zeroed" else highest
    low = min(min(curve[k] for k in curve if k <= window) for curve in none)
    axes.set(
        title=f"{NETWORKS[network].title}: {OPTIMIZERS[optimizer]}, {kind}",
        xlabel="steps after the edit",
        ylabel="loss, batch statistics",
        xlim=(0, window),
        ylim=(low - 0.1, highest + 0.35 * (highest - low) + 0.1),
    )


def _line(
    axes: Axes,
    curves: Sequence[dict[int, float]],
    window: int,
    color: str,
    label: str,
    style: str = "-",
) -> NDArray[np.float64]:
    steps = [k for k in sorted(curves[0]) if k <= window]
    every = np.array([[curve[k] for k in steps] for curve in curves])
    mean = every.mean(0)
    if len(every) > 1:
        spread = every.std(0, ddof=1)
        axes.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.13, lw=0)
    above = 4 if label == ARMS["carried"] else 3  # it may hide under one that comes near
    axes.plot(steps, mean, style, color=color, lw=1.8, label=label, zorder=above)
    return mean
