"""The figure: paths in the plane of α and the weight, as in Figure 2.1, and the gap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.rarts.example_2_4.study import (
    START,
    Descent,
    Limit,
    Path,
    other_path,
    rarts_path,
)
from ramify.report.theme import LIGHT, themed

COLORS = (LIGHT["arm-wide"], LIGHT["accent"], LIGHT["arm-scratch"], LIGHT["arm-retrained"])
BASELINE = "DARTS, first order"
LAMS = (1.0, 10.0, 100.0)
BETAS = (2.0, 10.0, 100.0)
STARTS = (-2.0, 0.0, 2.0)


@themed
def figure(limits: Sequence[Limit], descents: Sequence[Descent]) -> Figure:
    """Six panels: λ, β and u₀ varied as in Figure 2.1, the other searchers, the error, the gap.

    Args:
        limits: the limits of RARTS.
        descents: the decrease of its Lagrangian.

    Returns:
        The figure.
    """
    layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12)
    drawn = Figure(figsize=(12.5, 8.0), layout=layout)
    panels = drawn.subplots(2, 3).ravel()
    first = other_path(BASELINE)
    varied = {
        "RARTS, β = 10, u₀ = 0": {f"λ = {lam:g}": (lam, 10.0, 0.0) for lam in LAMS},
        "RARTS, λ = 10, u₀ = 0": {f"β = {beta:g}": (10.0, beta, 0.0) for beta in BETAS},
        "RARTS, λ = β = 10": {f"u₀ = {u:g}": (10.0, 10.0, u) for u in STARTS},
    }
    for axes, (title, cases) in zip(panels, varied.items(), strict=False):
        paths = {label: rarts_path(*case) for label, case in cases.items()}
        _plane(axes, title, paths | {BASELINE: first})
    names = ("MiLeNAS, λ = 1", "DARTS, exact, ξ = 0.1", "DARTS, exact, ξ = 0.5", BASELINE)
    _plane(panels[3], "one copy of the weights", {name: other_path(name) for name in names})
    _errors(panels[4], limits)
    _gaps(panels[5], descents)
    return drawn


def _plane(axes: Axes, title: str, paths: dict[str, Path]) -> None:
    """Paths from their start to their limit; the baseline is dashed."""
    for color, (label, path) in zip(COLORS, paths.items(), strict=False):
        alpha, w = np.array(path).T
        plain = label == BASELINE
        shade, style = (LIGHT["soft"], "--") if plain else (color, "-")
        axes.plot(alpha, w, style, color=shade, lw=1.6, label=label, zorder=2 if plain else 3)
        axes.plot(alpha[-1], w[-1], "o", color=shade, ms=5, zorder=4)
    axes.plot(1, 1, "*", color=LIGHT["split"], ms=13, label="(1, 1)", zorder=5, lw=0)
    axes.set(title=title, xlabel="α", ylabel="weight of the model (u in RARTS)")
    axes.set(xlim=(0, 6), ylim=(START[0] - 0.3, 3))
    axes.legend(frameon=False, loc="lower right", fontsize=8.5)


def _errors(axes: Axes, limits: Sequence[Limit]) -> None:
    reach = np.array([1 / limit.lam + 1 / limit.beta for limit in limits])
    axes.loglog(reach, [limit.error for limit in limits], "o", color=COLORS[1], ms=5)
    line = np.array([reach.min(), reach.max()])
    top = max(limit.ratio for limit in limits)
    axes.loglog(line, top * line, "-", color=LIGHT["soft"], lw=1.2, label=f"{top:.2f} (1/λ + 1/β)")
    axes.set(title="RARTS: error of its limit", xlabel="1/λ + 1/β", ylabel="max |(w, u, α) − 1|")
    axes.legend(frameon=False, loc="upper left")


def _gaps(axes: Axes, descents: Sequence[Descent]) -> None:
    for color, descent in zip(COLORS, descents, strict=False):
        gaps = np.array(descent.gaps) / descent.gaps[0]
        label = f"λ = {descent.lam:g}, β = {descent.beta:g}"
        axes.semilogy(gaps, color=color, lw=1.8, label=label)
        middle = len(gaps) // 2
        steps = np.arange(middle, len(gaps))
        line = gaps[middle] * descent.predicted ** (steps - middle)
        axes.semilogy(steps, line, ":", color=LIGHT["ink"], lw=1.4)
    axes.set(title="within (2.15); dotted: by the Jacobian", xlabel="step")
    axes.set(ylabel="(L − L*) over its first value", ylim=(1e-10, 2))
    axes.legend(frameon=False, loc="upper right", fontsize=8.5)
