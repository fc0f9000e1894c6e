"""Figures of the searches: the position of the cells in the space, and the path of α."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.rarts.nats.table import CHOICES, NAMES
from ramify.cells import NATS

Row = dict[str, Any]
COLORS = ("#9aa0a6", "#3b6fd4", "#8fbf9f", "#0f8f6b", "#c9a227")  # in the order of the operations
LINES = dict(zip(NAMES, ("#0f8f6b", "#c9571a", "#3b6fd4", "#8a4fae", "#c9a227"), strict=False))


def space(rows: Sequence[Row], errors: np.ndarray[Any, Any]) -> Figure:
    """The errors of the cells found, compared with those of all cells.

    Args:
        rows: for one way to choose operations.
        errors: of every cell that could be chosen, on CIFAR-10, in %.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    shown = [name for name in NAMES if any(row["method"] == name for row in rows)]
    for place, name in enumerate(shown):
        mine = [row["cifar10"] for row in rows if row["method"] == name]
        offsets = np.linspace(-0.18, 0.18, len(mine)) if len(mine) > 1 else np.zeros(1)
        axes.plot(mine, place + offsets, "o", ms=5, alpha=0.8, color="#0f8f6b")
        axes.plot([np.median(mine)] * 2, [place - 0.33, place + 0.33], color="#202124", lw=2)
    box = axes.boxplot(
        errors, positions=[len(shown)], orientation="horizontal", widths=0.5, whis=(5, 95),
        showfliers=False, patch_artist=True, medianprops={"color": "#202124", "lw": 2},
    )  # fmt: skip
    for part in box["boxes"]:
        part.set(facecolor="#e8eaed")
    axes.set_yticks(
        range(len(shown) + 1), [*(NAMES[name] for name in shown), f"all {len(errors):,} cells"]
    )
    axes.set_xscale("log")
    axes.set_xticks(
        [6, 8, 10, 15, 20, 30, 50, 90], [str(n) for n in (6, 8, 10, 15, 20, 30, 50, 90)]
    )
    axes.minorticks_off()
    axes.set_xlabel("test error on CIFAR-10 after 200 epochs, % (published tables)")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def movement(rows: Sequence[Row]) -> Figure:
    """The mixing weights of every edge over the epochs, one row for each method; one seed.

    Args:
        rows: of relaxed searches.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(9.0, 1.5 * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), len(NATS.edges), sharex=True, sharey=True, squeeze=False)
    for row, line in zip(rows, grid, strict=True):
        history = np.array(row["history"])  # (epochs, E, O)
        for edge, axes in enumerate(line):
            for number, operation in enumerate(NATS.operations):
                axes.plot(
                    range(1, len(history) + 1),
                    history[:, edge, number],
                    color=COLORS[number],
                    label=operation,
                )
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=7)
            if row is rows[0]:
                source, target = NATS.edges[edge]
                axes.set_title(f"{source} to {target}", fontsize=8)
        line[0].set_ylabel(NAMES[row["method"]], fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def on_the_way(rows: Sequence[Row]) -> Figure:
    """Error and skip connections of the cell that the search would derive, over its steps.

    Args:
        rows: of `over_steps`.

    Returns:
        One row for each way to choose operations; for each method every seed and the mean.
    """
    choices = list(dict.fromkeys(row["choice"] for row in rows))
    methods = [name for name in NAMES if any(row["method"] == name for row in rows)]
    figure = Figure(figsize=(9.0, 2.5 * len(choices) + 0.4), layout="constrained")
    grid = figure.subplots(len(choices), 2, sharex=True, sharey="col", squeeze=False)
    keys = {"cifar10": "error on CIFAR-10, %", "skips": "skip connections, %"}
    for choice, line in zip(choices, grid, strict=True):
        for (key, words), axes in zip(keys.items(), line, strict=True):
            for method in methods:
                mine = [r for r in rows if r["choice"] == choice and r["method"] == method]
                _paths(axes, mine, key)
            axes.set_ylabel(words, fontsize=8)
            axes.set_title(CHOICES[choice].replace("`", ""), fontsize=9, loc="left")
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
        line[0].set_yscale("log")
        line[0].set_yticks(
            (6, 8, 10, 15, 20, 30, 50, 90), ("6", "8", "10", "15", "20", "30", "50", "90")
        )
        line[0].minorticks_off()
    for axes in grid[-1]:
        axes.set_xlabel("steps", fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    return figure


def _paths(axes: Axes, rows: Sequence[Row], key: str) -> None:
    """One measure of one method over the steps: every seed, and the mean."""
    color, method = LINES[rows[0]["method"]], NAMES[rows[0]["method"]]
    seeds = sorted({row["seed"] for row in rows})
    steps = sorted({row["steps"] for row in rows})
    values = np.array([[r[key] for r in rows if r["seed"] == seed] for seed in seeds])
    axes.plot(steps, values.T, color=color, lw=0.7, alpha=0.4)
    axes.plot(steps, values.mean(0), color=color, lw=2, label=method)
