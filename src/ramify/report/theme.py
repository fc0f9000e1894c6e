"""One palette for page and figures, in a light and a dark form.

Figures are drawn in the light colours; on the page each of these becomes a CSS variable, so that
the same drawing is legible in both forms.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

LIGHT: dict[str, str] = {
    "page": "#f6f7f4",
    "card": "#fefefd",
    "line": "#dfe3dc",
    "grid": "#e8ebe5",
    "ink": "#1d2420",
    "soft": "#5c6660",
    "quiet": "#b9c1bb",
    "body": "#9fb3a8",
    "accent": "#0f7a5f",
    "arm-seed": "#7d8781",
    "arm-scratch": "#c4641b",
    "arm-wide": "#3f68c8",
    "arm-retrained": "#8a4fae",
    "arm-other": "#96703c",
    "split": "#c8322f",
    "prune": "#2a55d4",
    "round-0": "#0b5570",
    "round-1": "#0d7d7c",
    "round-2": "#2b9a63",
    "round-3": "#6aab36",
    "round-4": "#b09a12",
    "round-5": "#d07a1c",
    "op-sep": "#0c8468",
    "op-dil": "#7b53c6",
    "op-conv": "#0b7f8f",
    "op-max": "#c2571a",
    "op-avg": "#b1870f",
    "op-skip": "#3a6bd6",
    "op-none": "#8f9992",
    "op-other": "#a8457f",
}
DARK: dict[str, str] = {
    "page": "#131715",
    "card": "#1a201d",
    "line": "#303833",
    "grid": "#29302c",
    "ink": "#e6ebe7",
    "soft": "#a0aba4",
    "quiet": "#56605a",
    "body": "#5b6f65",
    "accent": "#3fcf9f",
    "arm-seed": "#97a29b",
    "arm-scratch": "#f0995a",
    "arm-wide": "#86a8ff",
    "arm-retrained": "#c998ea",
    "arm-other": "#d0aa74",
    "split": "#ff7a70",
    "prune": "#7d9bff",
    "round-0": "#4fa9cf",
    "round-1": "#3cc6c1",
    "round-2": "#54d08f",
    "round-3": "#9bdc66",
    "round-4": "#e6d052",
    "round-5": "#f7b05f",
    "op-sep": "#41cc9f",
    "op-dil": "#b79bf5",
    "op-conv": "#43c3d3",
    "op-max": "#f2925c",
    "op-avg": "#dfb84a",
    "op-skip": "#8cabff",
    "op-none": "#7d8880",
    "op-other": "#e68ec0",
}

P = ParamSpec("P")

SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LIGHT["line"],
    "axes.facecolor": "none",
    "axes.formatter.limits": (-3, 5),
    "axes.grid": True,
    "axes.labelcolor": LIGHT["soft"],
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": LIGHT["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "ramify",
    "text.color": LIGHT["ink"],
    "text.parse_math": False,
    "xtick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["soft"],
    "xtick.labelsize": 8.5,
    "ytick.color": LIGHT["line"],
    "ytick.labelcolor": LIGHT["soft"],
    "ytick.labelsize": 8.5,
}
"""Matplotlib settings under which figures are made and written."""

WIDTH = 10.6
"""Width of every figure in inches: what the page has room for at full size."""


MAIN = ("grown", "pruned")
"""The arms that runs are about; they stand out."""


def arm_color(arm: str) -> str:
    """The colour of an arm, the main one in the accent."""
    return LIGHT["accent"] if arm in MAIN else LIGHT.get(f"arm-{arm}", LIGHT["arm-other"])


def round_color(edit: int, edits: int) -> str:
    """The colour of the edit-th of all edits (from 1), from deep blue to amber."""
    steps = 6
    if edits <= steps:
        return LIGHT[f"round-{min(edit - 1 + (edits == 1), steps - 1)}"]
    return LIGHT[f"round-{round((edit - 1) * (steps - 1) / (edits - 1))}"]


def themed(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a figure under the page's settings and leave those of the process alone."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(SETTINGS):
            return draw(*args, **kwargs)

    return drawn


def canvas(height: float, gap: float = 0.02) -> Figure:
    """An empty figure of the page's width, its height in inches, gaps as shares of a panel."""
    return Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(wspace=gap, hspace=gap))


def bare(axes: Axes) -> None:
    """Take away grid, frame and ticks."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
