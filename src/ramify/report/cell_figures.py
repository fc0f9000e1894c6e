"""Drawings of the cells of a search space, and of the mixing weights of their edges over time.

``E`` edges of a cell, ``O`` operations, ``T`` epochs.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import BoxStyle, Ellipse, FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from ramify.report.cell_layout import Arrow, Point, layered
from ramify.report.theme import LIGHT, canvas, themed

POINTS = 72.0  # points per inch
FONT, SMALL = 9.5, 8.5
PADDING = (9.0, 5.0)  # of a label, horizontal and vertical
NODE = 27.0  # diameter
MARGIN = 10.0
HEAD = (8.5, 3.1)  # of an arrow: length and half its width
CENTRED: dict[str, Any] = {"ha": "center", "va": "center_baseline", "zorder": 4}
DOTS: Any = (0, (2, 2.4))
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1, 1.4)), (0, (5, 1.4, 1, 1.4)))

KINDS = {
    "sep": "separable convolution",
    "dil": "dilated convolution",
    "conv": "convolution",
    "max": "max pooling",
    "avg": "average pooling",
    "skip": "skip connection",
    "none": "no connection",
    "other": "other operation",
}
"""The kinds of operations, by the word that names their colour."""


@dataclass(frozen=True)
class CellEdge:
    """An edge of a cell.

    Attributes:
        source: Name of the node that it reads.
        target: Name of the node that it is added to.
        operation: Its operation; None for an unlabelled identity.
    """

    source: str
    target: str
    operation: str | None


def operation_kind(operation: str) -> str:
    """The one of `KINDS` that an operation belongs to, by a word in its name."""
    words = operation.split("_")
    return next((kind for kind in KINDS if kind in words), "other")


def operation_in_words(operation: str) -> str:
    """The readable name of an operation: 'max pool 3×3' for max_pool_3x3."""
    text = operation.removeprefix("nor_").replace("skip_connect", "skip").replace("_", " ")
    return re.sub(r"(\d)x(\d)", r"\1×\2", text)


# ---------------------------------------------------------------------------- one cell


@themed
def cell_figure(nodes: Sequence[str], edges: Sequence[CellEdge]) -> Figure:
    """Draw a cell from its inputs at the left to its output; ``nodes`` are in topological order."""
    number = {name: place for place, name in enumerate(nodes)}
    labels = [operation_in_words(edge.operation) if edge.operation else None for edge in edges]
    sizes = [(_width(label, SMALL), SMALL + 2 * PADDING[1]) if label else None for label in labels]
    boxes = [(max(NODE, _width(name, FONT)), NODE) for name in nodes]
    ends = [(number[edge.source], number[edge.target]) for edge in edges]
    drawn = layered(boxes, [Arrow(*pair, size) for pair, size in zip(ends, sizes, strict=True)])
    width, height = (side + 2 * MARGIN for side in drawn.size)
    figure = Figure(figsize=(width / POINTS, height / POINTS))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-MARGIN, drawn.size[0] + MARGIN)
    axes.set_ylim(drawn.size[1] + MARGIN, -MARGIN)
    for edge, path in zip(edges, drawn.paths, strict=True):
        _draw_arrow(axes, path, operation_kind(edge.operation) if edge.operation else None)
    for edge, label, at, size in zip(edges, labels, drawn.labels, sizes, strict=True):
        if edge.operation and label and at and size:
            _draw_label(axes, at, size, label, LIGHT[f"op-{operation_kind(edge.operation)}"])
    for name, at, box in zip(nodes, drawn.nodes, boxes, strict=True):
        # States are numbered; the cell's inputs and output are highlighted.
        face, ink = ("card", "ink") if name.isdigit() else ("soft", "card")
        style: dict[str, Any] = {"edgecolor": LIGHT["soft"], "linewidth": 1.3, "zorder": 3}
        axes.add_patch(Ellipse(at, *box, facecolor=LIGHT[face], **style))
        axes.text(*at, name, fontsize=FONT, color=LIGHT[ink], **CENTRED)
    return figure


def _width(text: str, size: float) -> float:
    """Width of a text with padding on both sides."""
    font = FontProperties(family="DejaVu Sans")
    extents = TextPath((0, 0), text, size=size, prop=font).get_extents()
    return float(extents.width) + 2 * PADDING[0]


def _draw_arrow(axes: Axes, stretches: Sequence[tuple[Point, Point]], kind: str | None) -> None:
    """Straight segments joined by curves that begin and end horizontally, and an arrow head."""
    points, codes = [*stretches[0]], [Outline.MOVETO, Outline.LINETO]
    for (_, left), (right, end) in itertools.pairwise(stretches):
        middle = (left[0] + right[0]) / 2
        points += [(middle, left[1]), (middle, right[1]), right, end]
        codes += [Outline.CURVE4] * 3 + [Outline.LINETO]
    # The line ends inside the head, which is drawn separately so that it is never dashed.
    (x, y), (length, half) = points[-1], HEAD
    points[-1] = (x - length / 2, y)
    color = LIGHT[f"op-{kind}" if kind else "quiet"]
    line = PathPatch(Outline(points, codes), facecolor="none", edgecolor=color, capstyle="butt")
    line.set(linewidth=1.1 if kind in (None, "none") else 1.7, zorder=1 if kind else 0)
    line.set_linestyle(DOTS if kind == "none" else "-")
    axes.add_patch(line)
    head = [(x, y), (x - length, y - half), (x - length, y + half)]
    axes.add_patch(Polygon(head, facecolor=color, edgecolor="none", zorder=2 if kind else 0))


def _draw_label(axes: Axes, at: Point, size: tuple[float, float], text: str, color: str) -> None:
    """A rounded box over the edge, tinted in the colour of the edge, with a text inside."""
    corner = at[0] - size[0] / 2, at[1] - size[1] / 2
    shape = BoxStyle("Round", pad=0, rounding_size=size[1] / 2)
    tint = {"facecolor": color, "alpha": 0.12}
    for style in ({"facecolor": LIGHT["card"], "edgecolor": color}, tint):
        axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=shape, zorder=3, **style))
    axes.text(*at, text, fontsize=SMALL, color=LIGHT["ink"], **CENTRED)


# ---------------------------------------------------------------------------- over time


@themed
def mixing_figure(
    edges: Sequence[tuple[str, str]],
    operations: Sequence[str],
    weights: Sequence[Sequence[Sequence[float]]],
    chosen: Mapping[tuple[str, str], str],
) -> Figure:
    """Draw the mixing weights of each edge over time: rows are target nodes, columns sources.

    Args:
        edges: Source and target of each edge (E).
        operations: Names of the candidates (O).
        weights: (T, E, O), softmax(α) after each epoch.
        chosen: The derived cell's operation on each edge; dropped edges are absent.

    Returns:
        E small panels with shared axes, with the derived cell's operation as a thick line.
    """
    rows = list(dict.fromkeys(target for _, target in edges))
    columns = list(dict.fromkeys(source for source, _ in edges))
    moved = np.asarray(weights)
    figure = canvas(0.5 + 1.15 * len(rows), gap=0.04)
    grid = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    pad = max(0.05 * float(np.ptp(moved)), 0.002)
    grid[0][0].set_ylim(moved.min() - pad, moved.max() + pad)
    for number, (source, target) in enumerate(edges):
        axes = grid[rows.index(target)][columns.index(source)]
        taken = chosen.get((source, target))
        _panel(axes, operations, moved[:, number], taken)
        axes.set_title(f"{source} → {target}", fontsize=8.5, pad=3)
        if source == next(s for s, t in edges if t == target):
            axes.tick_params(labelleft=True)
        if target == [t for s, t in edges if s == source][-1]:
            axes.tick_params(labelbottom=True)
    grid[-1][0].set_xlabel("epoch", fontsize=8.5)
    looks = _looks(operations)
    lines = [Line2D([], [], label=operation_in_words(name), **looks[name]) for name in operations]
    figure.legend(handles=lines, loc="upper right", ncols=2, handlelength=2.6)
    return figure


def _panel(axes: Axes, operations: Sequence[str], moved: Any, taken: str | None) -> None:
    """One edge: (T, O) weights."""
    axes.set_axis_on()
    epochs, looks = np.arange(1, len(moved) + 1), _looks(operations)
    for place, name in enumerate(operations):
        strong = {"linewidth": 2.4, "zorder": 3} if name == taken else {"alpha": 0.85}
        alone = {"marker": "o", "markersize": 3} if len(moved) == 1 else {}
        axes.plot(epochs, moved[:, place], **(looks[name] | strong | alone))
    axes.set_facecolor("none")
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.tick_params(labelsize=7.5, length=0)


def _looks(operations: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The line style of each operation: the colour of its kind, dashes to tell them apart."""
    seen: dict[str, int] = {}
    looks: dict[str, dict[str, Any]] = {}
    for name in operations:
        kind = operation_kind(name)
        style = DASHES[seen.get(kind, 0) % len(DASHES)]
        seen[kind] = seen.get(kind, 0) + 1
        looks[name] = {"color": LIGHT[f"op-{kind}"], "linestyle": style, "linewidth": 1.3}
    return looks


@themed
def losses_figure(jobs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Losses over the epochs of each search: solid lines for D_a, dashed ones for D_p."""
    figure = canvas(2.6)
    axes = figure.subplots()
    looks: dict[str, dict[str, Any]] = {
        "loss_a": {"color": LIGHT["accent"], "linestyle": "-"},
        "loss_p": {"color": LIGHT["op-dil"], "linestyle": (0, (4, 2))},
    }
    for events in jobs.values():
        epochs = [event["epoch"] + 1 for event in events]
        for key, look in looks.items():
            axes.plot(epochs, [event[key] for event in events], marker="o", markersize=3, **look)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    names = [Line2D([], [], label=f"D_{key[-1]}", **look) for key, look in looks.items()]
    figure.legend(handles=names, loc="outside upper right", ncols=2, handlelength=3)
    return figure
