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

FIRST, SECOND = LIGHT["accent"], "#c4641b"
RATES = (LIGHT["accent"], "#c4641b", "#3f68c8", "#8a4fae")


@themed
def figure(found: Mapping[str, Any]) -> Figure:
    """Four panels.

    Args:
        found: the results of each part of the command.

    Returns:
        The figure.
    """
    drawn = Figure(figsize=(12, 8.4), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.14))
    axes = drawn.subplots(2, 2)
    _particles(axes[0, 0], found["particles"])
    _lemma(axes[0, 1], found["neurons"]["lemma"])
    _neurons(axes[1, 0], found["neurons"])
    _noise(axes[1, 1], found["noise"])
    return drawn


def _particles(axes: Axes, found: Mapping[str, Any]) -> None:
    for name, color, label in (
        ("moving", SECOND, "moving, at a point of slope"),
        ("splitting", FIRST, "splitting, at an optimum"),
    ):
        rows = found[name]
        x = [row["radius"] for row in rows]
        off = [abs(1 - row["best"] / row["theorem"]) for row in rows]
        axes.plot(x, off, "o-", color=color, label=f"best of all, {label}")
        rule = [max(abs(1 - row["rule"] / row["best"]), 1e-9) for row in rows]
        axes.plot(x, rule, "s:", mfc="white", color=color, label=f"rule against best, {label}")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="ε",
        ylabel="relative difference",
        title="S2D, Theorem 2.5: decrease against −ε E‖G‖ and −ε² E min(λ, 0) / 2",
    )
    axes.legend(loc="center left", fontsize=7)


def _lemma(axes: Axes, pairs: list[tuple[float, float]]) -> None:
    error, bound = np.array(pairs).T
    axes.plot(bound, error, "o", color=FIRST, ms=4, alpha=0.6, mew=0)
    ends = np.array([error.min(), bound.max()])
    axes.plot(ends, ends, color=LIGHT["soft"], lw=1.2, label="the bound")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="bound by the splitting matrices",
        ylabel="mean squared error",
        title=f"S3D, Lemma 3.2, {len(pairs)} drawn networks",
    )
    axes.legend(loc="upper left")


def _neurons(axes: Axes, found: Mapping[str, Any]) -> None:
    for way, color in (("trained", FIRST), ("split alone", SECOND)):
        held = found[way]
        axes.plot(held["neurons"], held["loss"], "-", color=color, lw=2, label=way)
    goals = found["split alone"]["allowed"]
    losses, neurons = [float(goal) for goal in goals], list(goals.values())
    axes.plot(neurons, losses, "^--", color=LIGHT["soft"], label="the theorem, split alone")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="neurons",
        ylabel="loss",
        title="S3D, Theorem 3.4: triplet splits, c = 3",
    )
    axes.legend(loc="lower left")


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
    axes.set(
        yscale="log",
        xlabel="steps",
        ylabel="mean gap of the Lagrangian",
        title="RARTS thesis, Corollary 2.8 (dashed: bound, dotted: exact)",
    )
    axes.legend(loc="upper right", fontsize=8)
