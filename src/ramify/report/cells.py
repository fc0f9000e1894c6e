"""Cells of a search space as drawings, and how the mixing weights of their edges moved.

``E`` edges of a cell, ``O`` operations, ``T`` epochs.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Polygon
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator

from ramify.report.layered import Arrow, Drawing, Point, layered
from ramify.report.theme import LIGHT, canvas, themed

POINTS = 72.0  # an inch
FONT, SMALL = 9.5, 8.5
PADDING = (9.0, 5.0)  # of a label, to each side and above and below it
NODE = 27.0  # across
MARGIN = 10.0
HEAD = (8.5, 6.2)  # of an arrow: length and width
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
class Wire:
    """An edge of a cell.

    Attributes:
        source: Name of the node that it reads.
        target: Name of the node that it is added to.
        operation: What it does; None where it hands on what it reads, unlabelled.
    """

    source: str
    target: str
    operation: str | None


def operation_kind(operation: str) -> str:
    """Which of `KINDS` an operation is of, by its name.

    Args:
        operation: As spaces name them.

    Returns:
        The kind.

    Example:
        >>> [operation_kind(name) for name in ("nor_conv_3x3", "dil_conv_5x5", "skip_connect")]
        ['conv', 'dil', 'skip']
    """
    words = operation.split("_")
    return next((kind for kind in KINDS if kind in words), "other")


def in_words(operation: str) -> str:
    """An operation's name for people.

    Args:
        operation: As spaces name them.

    Returns:
        Its words.

    Example:
        >>> in_words("max_pool_3x3"), in_words("skip_connect"), in_words("nor_conv_1x1")
        ('max pool 3×3', 'skip', 'conv 1×1')
    """
    text = operation.removeprefix("nor_").replace("skip_connect", "skip").replace("_", " ")
    return re.sub(r"(\d)x(\d)", r"\1×\2", text)


# ---------------------------------------------------------------------------- one cell


@themed
def cell_figure(nodes: Sequence[str], wires: Sequence[Wire]) -> Figure:
    """Draw a cell as a directed graph, from its inputs at the left to its output at the right.

    Args:
        nodes: Names of the nodes, each after those that it reads.
        wires: The edges.

    Returns:
        A figure as large as the drawing.
    """
    order = {name: number for number, name in enumerate(nodes)}
    boxes = [(max(NODE, _width(name, FONT) + 2 * PADDING[0]), NODE) for name in nodes]
    arrows = [
        Arrow(order[wire.source], order[wire.target], _label_size(wire.operation)) for wire in wires
    ]
    drawn = layered(boxes, arrows)
    width, height = (side + 2 * MARGIN for side in drawn.size)
    figure = Figure(figsize=(width / POINTS, height / POINTS))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-MARGIN, drawn.size[0] + MARGIN)
    axes.set_ylim(drawn.size[1] + MARGIN, -MARGIN)
    for number in sorted(range(len(wires)), key=lambda n: wires[n].operation is not None):
        _draw_wire(axes, drawn, number, wires[number].operation, order[wires[number].target])
    for name, box, centre in zip(nodes, boxes, drawn.nodes, strict=True):
        _draw_node(axes, name, box, centre, not name.isdigit())
    return figure


def _label_size(operation: str | None) -> tuple[float, float] | None:
    if operation is None:
        return None
    return _width(in_words(operation), SMALL) + 2 * PADDING[0], SMALL + 2 * PADDING[1]


def _width(text: str, size: float) -> float:
    font = FontProperties(family="DejaVu Sans")
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().width)


def _draw_wire(axes: Axes, drawn: Drawing, number: int, operation: str | None, target: int) -> None:
    """An edge with its head, and its label over it."""
    color = LIGHT["quiet"] if operation is None else LIGHT[f"op-{operation_kind(operation)}"]
    stretches, faint = drawn.paths[number], operation is None or operation_kind(operation) == "none"
    tip = _touching(drawn.nodes[target], stretches[-1][1])
    base = (tip[0] - HEAD[0], tip[1])
    style: dict[str, Any] = {"linewidth": 1.1 if faint else 1.7, "edgecolor": color}
    if operation is not None and faint:
        style["linestyle"] = (0, (2, 2.4))
    start = min(stretches[-1][0][0], base[0]), base[1]
    outline = _curve([*stretches[:-1], (start, base)])
    axes.add_patch(PathPatch(outline, facecolor="none", capstyle="butt", zorder=1, **style))
    half = HEAD[1] / 2
    head = [tip, (base[0] - 0.5, base[1] - half), (base[0] - 0.5, base[1] + half)]
    axes.add_patch(Polygon(head, closed=True, facecolor=color, edgecolor="none", zorder=2))
    centre, size = drawn.labels[number], _label_size(operation)
    if operation is not None and centre is not None and size is not None:
        for face, opacity in ((LIGHT["card"], 1.0), (color, 0.12)):
            _box(axes, centre, size, {"facecolor": face, "alpha": opacity, "edgecolor": "none"})
        _box(axes, centre, size, {"facecolor": "none", "edgecolor": color, "linewidth": 1.1})
        _text(axes, centre, in_words(operation), SMALL, LIGHT["ink"])


def _curve(stretches: Sequence[tuple[Point, Point]]) -> Outline:
    """Straight stretches joined by curves that leave and enter horizontally."""
    points, codes = [stretches[0][0], stretches[0][1]], [Outline.MOVETO, Outline.LINETO]
    for (_, left), (right, end) in itertools.pairwise(stretches):
        middle = (left[0] + right[0]) / 2
        points += [(middle, left[1]), (middle, right[1]), right, end]
        codes += [Outline.CURVE4] * 3 + [Outline.LINETO]
    return Outline(points, codes)


def _touching(centre: Point, tip: Point) -> Point:
    """Where an edge that comes in beside the middle meets the round side of a node."""
    rise = tip[1] - centre[1]
    return tip[0] + NODE / 2 - math.sqrt(NODE**2 / 4 - rise**2), tip[1]


def _draw_node(axes: Axes, name: str, size: tuple[float, float], at: Point, end: bool) -> None:
    face = LIGHT["soft"] if end else LIGHT["card"]
    style = {"facecolor": face, "edgecolor": LIGHT["soft"], "linewidth": 1.3, "zorder": 3}
    _box(axes, at, size, style)
    _text(axes, at, name, FONT, LIGHT["card" if end else "ink"])


def _box(axes: Axes, centre: Point, size: tuple[float, float], style: dict[str, Any]) -> None:
    """A box whose left and right sides are half circles."""
    half, radius = size[0] / 2 - size[1] / 2, size[1] / 2
    arc = Outline.arc(-90, 90)
    turn, codes = radius * np.asarray(arc.vertices), np.asarray(arc.codes).tolist()
    right, left = turn + np.array([half, 0]), -turn - np.array([half, 0])
    codes += [Outline.LINETO, *codes[1:], Outline.CLOSEPOLY]
    outline = Outline(np.concatenate([right, left, right[:1]]) + centre, codes)
    axes.add_patch(PathPatch(outline, **({"zorder": 3} | style)))


def _text(axes: Axes, at: Point, text: str, size: float, color: str) -> None:
    place: dict[str, Any] = {"ha": "center", "va": "center_baseline", "zorder": 4}
    axes.text(*at, text, fontsize=size, color=color, **place)


# ---------------------------------------------------------------------------- over time


@themed
def mixing_figure(
    edges: Sequence[tuple[str, str]],
    operations: Sequence[str],
    weights: Sequence[Sequence[Sequence[float]]],
    chosen: Mapping[tuple[str, str], str],
) -> Figure:
    """Draw how the mixing weights of each edge moved: a row a node, a column for what it reads.

    Args:
        edges: Source and target of each edge (E).
        operations: Names of the candidates (O).
        weights: (T, E, O), softmax(α) after each epoch.
        chosen: What the derived cell has on an edge; edges that it dropped are left out.

    Returns:
        E small panels over the same axes, the operation of the derived cell drawn strong.
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
    lines = [Line2D([], [], label=in_words(name), **looks[name]) for name in operations]
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
    """Of each operation, the colour of its kind; those of one kind are dashed differently."""
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
    """Draw the losses of both halves over the epochs of each search.

    Args:
        jobs: The events of each search's epochs.

    Returns:
        One panel: solid lines for D_a, dashed ones for D_p.
    """
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
