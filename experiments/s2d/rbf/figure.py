"""The figure: S2D, Figure 1, with an additional panel for all seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.files import png
from experiments.s2d.rbf.arms import ARMS, NEURONS, POSITIVE, Settings
from experiments.s2d.rbf.law import FINE
from experiments.s2d.rbf.pool import Result
from experiments.s2d.rbf.training import EVERY
from ramify.report.theme import LIGHT, themed

COLORS = {
    "s2d": LIGHT["accent"],
    "random": "#b09a12",
    "new": "#3f68c8",
    "boosting": "#8a4fae",
    "scratch": "#c4641b",
}
COLORS |= {arm: COLORS[arm.removesuffix(POSITIVE)] for arm in ARMS if arm.endswith(POSITIVE)}
INK, SOFT = LIGHT["ink"], LIGHT["soft"]


def figure(results: Sequence[Result], settings: Settings) -> bytes:
    """The figure of all seeds as a PNG.

    Args:
        results: of every seed.
        settings: of the command.

    Returns:
        The file's bytes.
    """
    return png(_draw(results, settings))


@themed
def _draw(results: Sequence[Result], settings: Settings) -> Figure:
    ranked = sorted(results, key=lambda result: float(result["arms"]["s2d"]["mse"]))
    best, middle = ranked[0], ranked[len(ranked) // 2]
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.14)
    drawn = Figure(figsize=(13.2, 7.6), layout=layout)
    axes = drawn.subplots(2, 3)
    _fit(axes[0, 0], best, "(a) True and fitted function, S2D's best seed")
    _fit(axes[0, 1], middle, "(a′) The same, S2D's median seed")
    _eigenvalues(axes[0, 2], best)
    _angles(axes[1, 0], best)
    _curves(axes[1, 1], results, settings)
    _finals(axes[1, 2], results)
    return drawn


def _fit(axes: Axes, result: Result, title: str) -> None:
    curves = result["fit"]
    axes.plot(curves["x"], curves["truth"], color=INK, lw=1.4, label="true, 15 neurons")
    axes.plot(curves["x"], curves["s2d"], "--", color=COLORS["s2d"], lw=2.2, label="S2D, 8 neurons")
    axes.set(title=title, xlabel="x", ylabel="f(x)")
    axes.margins(x=0.01, y=0.25)
    axes.legend(loc="upper left", ncols=2)
    note = f"seed {result['seed']}, MSE {result['arms']['s2d']['mse']:.2g}"
    axes.text(0.98, 0.03, note, transform=axes.transAxes, ha="right", color=SOFT)


def _eigenvalues(axes: Axes, result: Result) -> None:
    law = result["eigenvalues"]
    gains, decrease = -np.array(law["index"]), np.array(law["decrease"]["fine"])
    line = np.array([min(gains.min(), 0.0), gains.max()]) * 1.05
    expected = 0.5 * FINE**2 * line
    axes.plot(line, expected, color=SOFT, lw=1.2, label="theorem: −ε²λ/2")
    axes.plot(gains, decrease, "o", color=COLORS["s2d"], ms=8, label="measured")
    axes.set(
        title="(b) Eigenvalue against decrease, 7 → 8 neurons",
        xlabel="−λ_min of a neuron (top five)",
        ylabel="decrease of the MSE right after the split",
    )
    axes.legend(loc="upper left")
    note = f"seed {result['seed']}, ε = {FINE:g}, r = {law['r']['fine']:.6f}"
    axes.text(0.98, 0.03, note, transform=axes.transAxes, ha="right", color=SOFT)


def _angles(axes: Axes, result: Result) -> None:
    law = result["angles"]
    axes.plot(law["degrees"], law["expected"], color=SOFT, lw=1.2, label="theorem")
    axes.plot(
        law["degrees"], law["decrease"]["fine"], "o", color=COLORS["s2d"], ms=6, label="measured"
    )
    axes.axvline(0, color=LIGHT["quiet"], lw=1, zorder=0)
    axes.set(
        title="(c) Angle to the minimum eigenvector, m = 7",
        xlabel="angle (degrees)",
        ylabel="decrease of the MSE right after the split",
        xticks=range(-90, 91, 30),
    )
    axes.legend(loc="upper left")
    note = f"seed {result['seed']}, ε = {FINE:g}"
    axes.text(0.5, 0.04, note, transform=axes.transAxes, ha="center", color=SOFT)


def _curves(axes: Axes, results: Sequence[Result], settings: Settings) -> None:
    for phase in range(1, NEURONS):
        axes.axvline(phase * settings.iterations, color=LIGHT["grid"], lw=1, zorder=0)
    axes.grid(False, axis="x")
    for arm in reversed(ARMS):
        curves = np.array([result["arms"][arm]["curve"] for result in results])
        per_phase = curves.shape[1] // NEURONS
        steps = np.arange(curves.shape[1])
        x = steps // per_phase * settings.iterations + steps % per_phase * EVERY
        width = 2.4 if arm == "s2d" else 1.3
        dashes = ":" if arm.endswith(POSITIVE) else "-"
        middle = np.median(curves, axis=0)
        axes.plot(x, middle, dashes, color=COLORS[arm], lw=width, label=ARMS[arm])
    axes.set_yscale("log")
    axes.set(
        title=f"(d) Training loss, median of {len(results)} seeds",
        xlabel="iteration (lines: one neuron more)",
        ylabel="MSE",
    )
    handles, labels = axes.get_legend_handles_labels()
    axes.set_ylim(top=3e4)
    axes.legend(handles[::-1], labels[::-1], loc="upper right", fontsize=8, ncols=2)


def _finals(axes: Axes, results: Sequence[Result]) -> None:
    shift = np.linspace(-0.22, 0.22, len(results))
    for place, arm in enumerate(ARMS):
        values = np.array([result["arms"][arm]["mse"] for result in results])
        fill = "white" if arm.endswith(POSITIVE) else COLORS[arm]
        axes.plot(place + shift, values, "o", ms=4.5, color=COLORS[arm], alpha=0.75, mfc=fill)
        middle = np.median(values)
        axes.plot([place - 0.34, place + 0.34], [middle] * 2, color=INK, lw=2)
    axes.set_yscale("log")
    axes.grid(False, axis="x")
    axes.set(
        title="(e) Final MSE of every seed; bar: median",
        ylabel="MSE",
        xticks=range(len(ARMS)),
    )
    names = [label.replace(", positive", "\n(positive)") for label in ARMS.values()]
    axes.set_xticklabels([name.replace(" ", "\n") for name in names], fontsize=6)
