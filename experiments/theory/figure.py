"""The figure of the theorems, with one panel each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.theory.noise import EVERY
from ramify.report.theme import LIGHT, themed

FIRST, SECOND, THIRD = LIGHT["accent"], "#c4641b", "#3f68c8"
RATES = (FIRST, SECOND, THIRD, "#8a4fae")


@themed
def figure(found: Mapping[str, Any]) -> Figure:
    """Six panels.

    Args:
        found: the results of each part of the command.

    Returns:
        The figure.
    """
    drawn = Figure(figsize=(12, 12.4), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.14))
    axes = drawn.subplots(3, 2)
    _particles(axes[0, 0], found["particles"])
    _curvature(axes[0, 1], found["curvature"])
    _lemma(axes[1, 0], found["neurons"]["lemma"])
    _neurons(axes[1, 1], found["neurons"])
    _convex(axes[2, 0], found["convex"])
    _noise(axes[2, 1], found["noise"])
    return drawn


def _label(axes: Axes, x: str, y: str, title: str, xscale: str = "log") -> None:
    """Label a panel, whose vertical axis is logarithmic."""
    axes.set(xscale=xscale, yscale="log", xlabel=x, ylabel=y, title=title)


def _particles(axes: Axes, found: Mapping[str, Any]) -> None:
    for name, color, label in (
        ("moving", SECOND, "a) moving"),
        ("splitting", FIRST, "b) splitting"),
    ):
        rows = found[name]
        x = [row["radius"] for row in rows]
        off = [abs(1 - row["best"] / row["theorem"]) for row in rows]
        axes.plot(x, off, "o-", color=color, label=f"{label}: best against theorem")
        rule = [max(abs(1 - row["rule"] / row["best"]), 1e-9) for row in rows]
        axes.plot(x, rule, "s:", mfc="white", color=color, label=f"{label}: rule against best")
    _label(axes, "ε", "relative difference", "S2D, Theorem 2.5: the best decrease within ε")
    axes.legend(loc="lower right", fontsize=8)


def _curvature(axes: Axes, found: list[Mapping[str, Any]]) -> None:
    ranks = [row["rank"] for row in found]
    for row in found:
        few = row["shares"][:100]
        spread = row["rank"] * np.geomspace(0.9, 1.1, len(few))
        axes.plot(spread, few, ".", color=FIRST, ms=3, alpha=0.4)
    means = [np.mean(row["shares"]) for row in found]
    axes.plot(ranks, means, "o-", color=FIRST, label="random displacement: mean, and draws")
    axes.plot(ranks, np.ones(len(ranks)), "s:", color=SECOND, mfc="white", label="to a solution")
    axes.plot(ranks, 1 / np.array(ranks), "--", color=LIGHT["soft"], lw=1, label="1 / rank")
    _label(
        axes,
        "rank of the Hessian",
        "paper's curvature over the true one",
        "Gauss-Newton, Theorems 1 and 2",
    )
    axes.set(ylim=(1e-3, 2), xticks=ranks, xticklabels=ranks)
    axes.minorticks_off()
    axes.legend(loc="lower left", fontsize=8)


def _lemma(axes: Axes, pairs: list[tuple[float, float]]) -> None:
    error, bound = np.array(pairs).T
    axes.plot(bound, error, "o", color=FIRST, ms=4, alpha=0.6, mew=0)
    ends = np.array([error.min(), bound.max()])
    axes.plot(ends, ends, color=LIGHT["soft"], lw=1.2, label="the bound")
    _label(
        axes,
        "bound by the splitting matrices",
        "mean squared error",
        f"S3D, Lemma 3.2, {len(pairs)} drawn networks",
    )
    axes.legend(loc="upper left")


def _neurons(axes: Axes, found: Mapping[str, Any]) -> None:
    for way, color in (("trained", FIRST), ("split alone", SECOND)):
        held = found[way]
        axes.plot(held["neurons"], held["loss"], "-", color=color, lw=2, label=f"triplets, {way}")
    goals = found["split alone"]["allowed"]
    losses, neurons = [float(goal) for goal in goals], [2 * steps + 1 for steps in goals.values()]
    axes.plot(neurons, losses, "^--", color=LIGHT["soft"], label="Theorem 3.4, split alone")
    binary = found["binary"]
    added = np.array(binary["neurons"]) - binary["neurons"][0] + 1
    axes.plot(added, binary["loss"], "-", color=THIRD, lw=2, label="binary splits alone, m = 2")
    steps = [steps + 1 for steps in binary["allowed"].values()]
    axes.plot(steps, losses, "v--", color=THIRD, lw=1, label="Theorem B.1")
    _label(
        axes,
        "neurons that are added, plus 1",
        "loss",
        "S3D, Theorems 3.4 (m = 3) and B.1 (m = 2), c = 3",
    )
    axes.legend(loc="lower left", fontsize=8)


def _convex(axes: Axes, found: Mapping[str, Any]) -> None:
    steps = np.arange(1, len(found["gap"]) + 1)
    axes.plot(steps, found["gap"], color=FIRST, lw=2, label="measured")
    axes.plot(
        steps, found["bound"], "--", color=LIGHT["soft"], label="bound, proportional to 1 / t"
    )
    _label(axes, "step t", "gap of the Lagrangian", "RARTS thesis, Corollary 2.6 (ii)")
    axes.legend(loc="lower left", fontsize=8)


def _noise(axes: Axes, found: list[Mapping[str, Any]]) -> None:
    for row, color in zip(found, RATES, strict=True):
        steps = np.arange(len(row["curve"])) * EVERY
        axes.plot(steps, row["curve"], color=color, lw=1.4, label=f"η = {row['rate']:.4f}")
        axes.axhline(row["floor"], color=color, lw=1, ls=":")
        axes.plot(
            steps,
            row["bound"] + row["factor"] ** steps * (row["curve"][0] - row["bound"]),
            "--",
            color=color,
            lw=1,
        )
    _label(
        axes,
        "steps",
        "mean gap of the Lagrangian",
        "RARTS thesis, Corollary 2.8 (dashed: bound, dotted: exact)",
        xscale="linear",
    )
    axes.legend(loc="upper right", fontsize=8)
