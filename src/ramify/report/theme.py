"""The style of pages and figures: a palette in light and dark form, and SVG with both."""

import io
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ramify.commands.grow_settings import CUT, WIDE
from ramify.report.events import MAIN

_PALETTE = {  # the role of a colour: its light form, its dark form
    "page": ("#f6f7f4", "#131715"),
    "card": ("#fefefd", "#1a201d"),
    "line": ("#dfe3dc", "#303833"),
    "grid": ("#e8ebe5", "#29302c"),
    "ink": ("#1d2420", "#e6ebe7"),
    "soft": ("#5c6660", "#a0aba4"),
    "quiet": ("#b9c1bb", "#56605a"),
    "body": ("#9fb3a8", "#5b6f65"),
    "accent": ("#0f7a5f", "#3fcf9f"),
    "arm-seed": ("#7d8781", "#97a29b"),
    "arm-scratch": ("#c4641b", "#f0995a"),
    "arm-wide": ("#3f68c8", "#86a8ff"),
    "arm-retrained": ("#8a4fae", "#c998ea"),
    "arm-other": ("#96703c", "#d0aa74"),
    "split": ("#c8322f", "#ff7a70"),
    "prune": ("#2a55d4", "#7d9bff"),
    "round-0": ("#0b5570", "#4fa9cf"),
    "round-1": ("#0d7d7c", "#3cc6c1"),
    "round-2": ("#2b9a63", "#54d08f"),
    "round-3": ("#6aab36", "#9bdc66"),
    "round-4": ("#b09a12", "#e6d052"),
    "round-5": ("#d07a1c", "#f7b05f"),
    "op-sep": ("#0c8468", "#41cc9f"),
    "op-dil": ("#7b53c6", "#b79bf5"),
    "op-conv": ("#0b7f8f", "#43c3d3"),
    "op-max": ("#c2571a", "#f2925c"),
    "op-avg": ("#b1870f", "#dfb84a"),
    "op-skip": ("#3a6bd6", "#8cabff"),
    "op-none": ("#8f9992", "#7d8880"),
    "op-other": ("#a8457f", "#e68ec0"),
}
LIGHT = {role: light for role, (light, _) in _PALETTE.items()}
DARK = {role: dark for role, (_, dark) in _PALETTE.items()}

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
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "DejaVu Sans"],  # browsers take the first, matplotlib the last
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
"""Matplotlib settings for creating and writing figures."""

WIDTH = 10.6
"""Width of every figure in inches, the width of the page at full size."""


@contextmanager
def _settings() -> Iterator[None]:
    with matplotlib.rc_context(SETTINGS):
        yield


themed = _settings()
"""Decorates a function so that it draws its figure with these settings."""


def canvas(height: float, gap: float = 0.02, width: float = WIDTH) -> Figure:
    """An empty figure of the page's width; height in inches, gaps as shares of a panel."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=gap, hspace=gap))


def bare(axes: Axes) -> None:
    """Remove grid, frame and ticks."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def layer_rows(axes: Axes, groups: list[str]) -> None:
    """Give each layer a row labelled with its name, the first at the top."""
    axes.set_yticks(range(len(groups)), [shorten(group) for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")


def shorten(name: str, most: int = 24) -> str:
    """Shorten a name longer than `most` characters by omitting its middle."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-(most - half - 1) :]}"


def arm_color(arm: str) -> str:
    """The colour of an arm; the main one and networks cut from it have the accent colour."""
    if arm in MAIN or arm.startswith(CUT):
        return LIGHT["accent"]
    return LIGHT.get("arm-wide" if arm.startswith(WIDE) else f"arm-{arm}", LIGHT["arm-other"])


def round_color(edit: int, edits: int) -> str:
    """The colour of the edit-th of all edits (from 1), from deep blue to amber."""
    steps = 6
    if edits <= steps:
        return LIGHT[f"round-{min(edit - 1 + (edits == 1), steps - 1)}"]
    return LIGHT[f"round-{round((edit - 1) * (steps - 1) / (edits - 1))}"]


@themed
def svg(figure: Figure, label: str) -> str:
    """Write a figure as an SVG document that follows the light or dark mode of its viewer.

    Args:
        figure: the figure, drawn in the colours of `LIGHT`.
        label: a text alternative for screen readers.

    Returns:
        The document, the same for the same figure; programs without dark mode show the light form.
    """
    memory = io.StringIO()
    about = {"Title": label, "Creator": None, "Date": None, "Format": None, "Type": None}
    figure.savefig(memory, format="svg", facecolor=LIGHT["card"], metadata=about)
    text = memory.getvalue()
    # Matplotlib writes colours as inline styles, which only an !important rule overrides.
    rules = "".join(
        f'[style*="{kind}: {color}"]{{{kind}:{DARK[role]}!important}}'
        for role, color in LIGHT.items()
        for kind in ("fill", "stroke")
        if f"{kind}: {color}" in text
    )
    return text.replace("</style>", f"@media (prefers-color-scheme: dark){{{rules}}}</style>", 1)


def picture(figure: Figure, label: str) -> Markup:
    """A figure as an HTML image with embedded SVG, so that a page needs no other file."""
    data = b64encode(svg(figure, label).encode()).decode()
    return Markup('<img alt="{}" src="data:image/svg+xml;base64,{}">').format(label, data)
