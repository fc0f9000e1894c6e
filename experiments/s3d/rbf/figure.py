"""The figure: S3D, Figure 2 (a), (b), (c) and (d), and the final error of every seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from experiments.files import png
from experiments.s2d.rbf.arms import Settings
from experiments.s2d.rbf.figure import INK, SOFT
from experiments.s2d.rbf.pool import Result
from experiments.s2d.rbf.training import EVERY
from experiments.s3d.rbf.arms import ARMS, BY_C, BY_COPIES, NEURONS
from experiments.s3d.rbf.study import WIDTH
from ramify.report.theme import LIGHT, themed

COLORS = {
    "s2d": LIGHT["accent"],
    "m2": "#c4641b",
    "m3": "#3f68c8",
    "m4": "#8a4fae",
    "c1.5": "#b09a12",
    "c10": "#7a1f2b",
}


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
    drawn = Figure(figsize=(13.2, 7.6), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.14))
    axes = drawn.subplots(2, 3)
    one = _telling(results)
    median = f"median of {len(results)} seeds"
    _curves(axes[0, 0], results, BY_COPIES, f"(a) Number of copies m, {median}")
    _curves(axes[0, 1], [one], BY_C, f"(b) Binary splits by c, seed {one['seed']}")
    _marks(axes[0, 1], one, settings)
    _finals(axes[0, 2], results)
    _fits(axes[1, 0], one)
    _eigenvalues(axes[1, 1], one)
    _curves(axes[1, 2], results, BY_C, f"(b′) The same, {median}")
    return drawn


def _telling(results: Sequence[Result]) -> Result:
    """The seed with the median ratio of S3D's error to S2D's, of those where the choices differ."""
    apart = [r for r in results if r["choice"]["s2d"]["channel"] != r["choice"]["m2"]["channel"]]
    ranked = sorted(
        apart or results, key=lambda r: float(r["arms"]["m2"]["mse"] / r["arms"]["s2d"]["mse"])
    )
    return ranked[len(ranked) // 2]


def _curves(axes: Axes, results: Sequence[Result], arms: Sequence[str], title: str) -> None:
    for arm in arms:
        held = [result["arms"][arm]["curve"] for result in results]
        points = min(map(len, held))
        curves = np.array([curve[:points] for curve in held])
        x = np.arange(points) * EVERY
        width = 2.4 if arm == "s2d" else 1.3
        axes.plot(x, np.median(curves, axis=0), color=COLORS[arm], lw=width, label=ARMS[arm].label)
    axes.set_yscale("log")
    axes.set(title=title, xlabel="iteration", ylabel="MSE")
    axes.legend(loc="upper right", fontsize=8)


def _marks(axes: Axes, result: Result, settings: Settings) -> None:
    """Triangles where an arm first splits another neuron than S2D would."""
    for arm in BY_C:
        held = result["arms"][arm]
        if any(held["differs"]):
            phase = held["differs"].index(True)
            at = held["widths"][phase] * settings.iterations
            axes.plot(at, held["phases"][phase], "^", color=COLORS[arm], ms=9)
    axes.text(
        0.03,
        0.04,
        "▲ first split of another neuron than S2D's",
        transform=axes.transAxes,
        color=SOFT,
        fontsize=8,
    )


def _finals(axes: Axes, results: Sequence[Result]) -> None:
    for place, arm in enumerate(ARMS):
        values = [result["arms"][arm]["mse"] for result in results]
        spread = np.linspace(-0.16, 0.16, len(values))
        axes.plot(place + spread, values, "o", color=COLORS[arm], ms=5, alpha=0.8)
        middle = np.median(values)
        axes.plot([place - 0.3, place + 0.3], [middle, middle], color=INK, lw=1.4)
    axes.set_yscale("log")
    labels = [f"m = {arm.copies}\nc = {arm.signed:g}" for arm in ARMS.values()]
    axes.set_xticks(range(len(ARMS)), labels, fontsize=8)
    axes.set(title=f"Every seed at {NEURONS} neurons (line: median)", ylabel="final MSE")


def _fits(axes: Axes, result: Result) -> None:
    held = result["choice"]
    axes.plot(held["x"], held["truth"], color=INK, lw=1.4, label="true")
    for arm in ("s2d", "m2"):
        error = held[arm]["mse"]
        axes.plot(
            held["x"],
            held[arm]["curve"],
            "--",
            color=COLORS[arm],
            lw=2,
            label=f"{ARMS[arm].label}: {error:.2g}",
        )
    axes.set(
        title=f"(c) After split {WIDTH} and a phase, seed {result['seed']}",
        xlabel="x",
        ylabel="f(x)",
    )
    axes.margins(x=0.01, y=0.3)
    axes.legend(loc="upper left", fontsize=8)


def _eigenvalues(axes: Axes, result: Result) -> None:
    """Bars of λ_min and λ_max at the neurons' positions, and the neuron that each method splits."""
    held = result["choice"]
    places = np.arange(len(held["center"]))
    axes.bar(places - 0.18, held["high"], 0.34, color=COLORS["m2"], label="λ_max")
    axes.bar(places + 0.18, held["low"], 0.34, color=COLORS["s2d"], label="λ_min")
    axes.axhline(0, color=INK, lw=0.8)
    for arm, shift, key in (("m2", -0.18, "high"), ("s2d", 0.18, "low")):
        channel = held[arm]["channel"]
        value = held[key][channel] if held[arm]["negative"] == (arm == "m2") else 0.0
        axes.annotate(
            "S3D" if arm == "m2" else "S2D",
            (channel + shift, max(value, 0.0)),
            (0, 32),
            textcoords="offset points",
            ha="center",
            color=COLORS[arm],
            arrowprops={"arrowstyle": "->", "color": COLORS[arm], "lw": 1.8},
        )
    axes.margins(y=0.3)
    labels = [f"x = {c:.2g}" if abs(c) < 100 else "far" for c in held["center"]]
    axes.set_xticks(places, labels, fontsize=8)
    axes.set(title=f"(d) Neurons at split {WIDTH}: ends and choices", ylabel="eigenvalue")
    axes.legend(loc="upper right", fontsize=8)
