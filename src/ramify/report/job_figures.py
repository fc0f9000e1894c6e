"""Figures of how the shape of one network changed: pure functions from edits to a figure.

Edits are the edit events of one job in order; the k-th of them is called split k, prune k,
or edit k if the job has both.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ramify.report.events import Event, noun, ranking_field
from ramify.report.lineage import Lineage, lineages
from ramify.report.theme import LIGHT, bare, canvas, layer_rows, round_color, shorten, themed

_MOST_COLUMNS = 9  # number of snapshots of the widths that fit side by side

# ------------------------------------------------------------------ widths


@themed
def widths_figure(edits: Sequence[Event]) -> Figure:
    """After each edit a column of bars for the widths of layers; added channels are coloured."""
    moments = [edits[0]["widths_before"], *(edit["widths_after"] for edit in edits)]
    widest = max(max(moment.values()) for moment in moments)
    figure, panels = _snapshots(len(moments), list(moments[0]))
    for moment, axes in panels.items():
        color = round_color(moment, len(edits)) if moment else LIGHT["body"]
        _bars(axes, moments[max(moment - 1, 0)], moments[moment], color)
        axes.set_title(f"after {noun(edits)} {moment}" if moment else "seed", loc="center")
        axes.set_xlim(-0.56 * widest, 0.74 * widest)
    return figure


def _snapshots(count: int, groups: list[str]) -> tuple[Figure, dict[int, Axes]]:
    """A figure with a row for each layer and a panel for each snapshot, or for some if many."""
    shown = np.unique(np.linspace(0, count - 1, min(count, _MOST_COLUMNS)).round()).astype(int)
    figure = canvas(0.55 + 0.25 * len(groups))
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes in panels:
        bare(axes)
        axes.set_xticks([])
    layer_rows(panels[0], groups)
    return figure, dict(zip(shown.tolist(), panels, strict=True))


def _bars(axes: Axes, before: dict[str, int], after: dict[str, int], color: str) -> None:
    for row, (group, width) in enumerate(after.items()):
        old = before.get(group, width)
        axes.barh(row, width, left=-width / 2, height=0.74, color=color)
        if old > width:
            axes.barh(row, old, left=-old / 2, height=0.74, fill=False, edgecolor=LIGHT["quiet"])
        kept = min(old, width)
        axes.barh(row, kept, left=-kept / 2, height=0.74, color=LIGHT["body"])
        axes.annotate(
            f"{width}",
            (width / 2, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=LIGHT["ink" if width != old else "soft"],
        )


@themed
def remaining_figure(cuts: Sequence[Event]) -> Figure:
    """The channels left in each layer after a cut: the mean as a bar, each network as a dot."""
    scored = {proposal["group"] for cut in cuts for proposal in cut["proposals"]}
    groups = [group for group in cuts[0]["widths_before"] if group in scored]
    full = np.array([cuts[0]["widths_before"][group] for group in groups])
    left = np.array([[cut["widths_after"][group] for group in groups] for cut in cuts])
    figure = canvas(0.75 + 0.25 * len(groups))
    axes = figure.subplots()
    rows = np.arange(len(groups))
    axes.barh(rows, np.ones(len(groups)), height=0.74, color=LIGHT["grid"])
    axes.barh(rows, (left / full).mean(0), height=0.74, color=LIGHT["body"])
    for own in left / full if len(cuts) > 1 else ():
        axes.plot(own, rows, "o", color=LIGHT["accent"], markersize=3.5, alpha=0.8)
    for row, (mean, whole) in enumerate(zip(left.mean(0), full, strict=True)):
        text = f"{mean:.4g} of {whole}"
        axes.text(1.01, row, text, va="center", fontsize=8, color=LIGHT["soft"])
    layer_rows(axes, groups)
    axes.set_xlim(0, 1.14)
    axes.set_xticks(np.linspace(0, 1, 6), [f"{20 * i} %" for i in range(6)])
    axes.set_xlabel("channels left")
    return figure


# ------------------------------------------------------------------ channels


@themed
def channels_figure(edits: Sequence[Event]) -> Figure:
    """Every channel before each edit: red if it will be split, blue if pruned, shaded by rank."""
    widest = max(max(edit["widths_before"].values()) for edit in edits)
    figure, panels = _snapshots(len(edits), list(edits[0]["widths_before"]))
    for number, axes in panels.items():
        _squares(axes, edits[number])
        axes.set_title(f"before {noun(edits)} {number + 1}", loc="center")
        axes.set_xlim(-0.56 * widest, 0.56 * widest)
    return figure


def _squares(axes: Axes, edit: Event) -> None:
    """Draw every channel; those of one colour are one path, since there may be thousands."""
    looks = _looks_of_channels([p for p in edit["proposals"] if p["selected"]])
    paths: dict[tuple[str, float], list[Path]] = {}
    for row, (group, width) in enumerate(edit["widths_before"].items()):
        for channel in range(width):
            left, right = channel - width / 2, channel - width / 2 + 0.86
            corners = [(left, row - 0.37), (right, row - 0.37), (right, row + 0.37)]
            corners += [(left, row + 0.37), corners[0]]
            look = looks.get((group, channel), ("body", 0.55))
            paths.setdefault(look, []).append(Path(corners, closed=True))
    for (color, alpha), squares in paths.items():
        body = Path.make_compound_path(*squares)
        axes.add_patch(PathPatch(body, facecolor=LIGHT[color], alpha=alpha, linewidth=0))


def _looks_of_channels(chosen: Sequence[Event]) -> dict[tuple[str, int], tuple[str, float]]:
    """Colour and opacity of each edited channel: by its rank among its kind, in four steps."""
    field = ranking_field(chosen)
    looks: dict[tuple[str, int], tuple[str, float]] = {}
    for kind in ("prune", "split"):  # a channel in both shows its split
        alike = [p for p in chosen if (p["copies"] == 0) == (kind == "prune")]
        alike.sort(key=lambda p: _number(p[field]), reverse=field == "index")
        for rank, proposal in enumerate(alike, start=1):
            quarter = math.ceil(4 * rank / len(alike)) / 4
            place = proposal["group"], proposal["channel"]
            looks[place] = kind, round(0.2 + 0.8 * quarter, 2)
    return looks


# ------------------------------------------------------------------ proposals


@themed
def proposals_figure(edits: Sequence[Event]) -> Figure:
    """All proposed edits, with those that were made highlighted.

    Args:
        edits: the edits of one job, at least one with proposals.

    Returns:
        For each edit two panels: all proposals sorted by splitting index (by score or predicted
        gain if the method has no index), and the same in one row for each layer. Splits that
        were made have the colour of the edit, prunes the colour of prunes.
    """
    scored = [(k, edit["proposals"]) for k, edit in enumerate(edits, 1) if edit["proposals"]]
    every = [proposal for _, proposals in scored for proposal in proposals]
    field, seen = ranking_field(every), {proposal["group"] for proposal in every}
    groups = [group for group in edits[0]["widths_before"] if group in seen]
    # At most four edits are side by side; each has a tall panel above one with a row per layer.
    columns = min(len(scored), 4)
    blocks = -(-len(scored) // columns)
    strip = 0.45 + 0.24 * len(groups)
    figure = canvas(blocks * (2.1 + strip), gap=0.04)
    grid = figure.subplots(2 * blocks, columns, squeeze=False, height_ratios=[1.9, strip] * blocks)
    for axes in grid.flat:
        axes.set_visible(False)
    for place, (number, proposals) in enumerate(scored):
        row, column = divmod(place, columns)
        ranked, rows = grid[2 * row][column], grid[2 * row + 1][column]
        color = round_color(number, len(edits))
        _ranked(ranked, proposals, field, color)
        chosen = sum(proposal["selected"] for proposal in proposals)
        # Short enough for four panels side by side.
        ranked.set_title(f"{noun(edits)} {number}: {chosen:,} of {len(proposals):,}")
        _by_layer(rows, proposals, groups, field, color)
        if column == 0:
            ranked.set_ylabel(_axis_name(field))
        else:
            rows.tick_params(labelleft=False)
    return figure


def _axis_name(field: str) -> str:
    names = {"index": "splitting index", "score": "score of the method"}
    return names.get(field, "predicted gain (loss)")


def _looks(proposals: Sequence[Event], color: str) -> list[tuple[np.ndarray, str, bool]]:
    """(mask of proposals, colour, whether made) for those not made, splits and prunes."""
    chosen = np.array([proposal["selected"] for proposal in proposals])
    pruned = np.array([proposal["copies"] == 0 for proposal in proposals])
    looks = [
        (~chosen, LIGHT["quiet"], False),
        (chosen & ~pruned, color, True),
        (chosen & pruned, LIGHT["prune"], True),
    ]
    return [look for look in looks if look[0].any()]


def _ranked(axes: Axes, proposals: Sequence[Event], field: str, color: str) -> None:
    """All proposals in order, each as a bar of its value."""
    axes.set_visible(True)
    # The best are first: the most negative index, or the largest score or gain.
    ordered = sorted(proposals, key=lambda p: _number(p[field]), reverse=field != "index")
    values = np.array([_number(proposal[field]) for proposal in ordered])
    edges = np.arange(len(values) + 1) + 0.5
    for mask, tint, _ in _looks(ordered, color):
        axes.stairs(np.where(mask, values, np.nan), edges, baseline=0, fill=True, color=tint)
    axes.axhline(0, color=LIGHT["soft"], linewidth=0.7)
    axes.set_xlim(0.5, len(values) + 0.5)
    best = np.nanmax(values, initial=-np.inf)
    if field == "gain" and best > 0:  # very harmful prunes would dominate the scale
        axes.set_ylim(bottom=max(min(np.nanmin(values), 0.0) * 1.05, -best))
    axes.grid(False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("proposals, best first")


def _by_layer(
    axes: Axes, proposals: Sequence[Event], groups: list[str], field: str, color: str
) -> None:
    """All proposals in the rows of their layers, each as a tick at its value."""
    axes.set_visible(True)
    values = np.array([_number(proposal[field]) for proposal in proposals])
    places = np.array([groups.index(proposal["group"]) for proposal in proposals], dtype=float)
    for mask, tint, made in _looks(proposals, color):
        half = 0.36 if made else 0.22
        # One line with gaps, since thousands of separate lines would make the page large.
        x, row = np.repeat(values[mask], 3), places[mask]
        y = np.stack([row - half, row + half, np.full_like(row, np.nan)], axis=1).ravel()
        axes.plot(x, y, color=tint, linewidth=1.3)
    axes.axvline(0, color=LIGHT["soft"], linewidth=0.7)
    layer_rows(axes, groups)
    # A signed square-root scale separates many small values next to a few large ones.
    root, square = (lambda x: np.sign(x) * np.sqrt(np.abs(x))), (lambda x: np.sign(x) * x**2)
    axes.set_xscale("function", functions=(root, square))
    axes.set_xticks(_root_ticks(values))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.set_xlabel(f"{_axis_name(field)}, square-root scale".replace(" (loss)", ""))


def _root_ticks(values: np.ndarray) -> list[float]:
    """Zero and, on each side with room for labels, a round end value and its quarter."""
    finite = values[np.isfinite(values)]
    ends = [float(finite.min(initial=0.0)), float(finite.max(initial=0.0))]
    furthest = max(abs(end) for end in ends)
    ticks = [0.0]
    for end in ends:
        if end and abs(end) > furthest / 9:
            unit = 10.0 ** math.floor(math.log10(abs(end)))
            far = math.copysign(math.floor(abs(end) / unit) * unit, end)
            ticks += [far, far / 4]
    return sorted(ticks)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


# ------------------------------------------------------------------ family trees


@themed
def lineage_figure(edits: Sequence[Event]) -> Figure:
    """The family tree of each changed layer, with the channels of the seed network at the left."""
    trees = lineages(edits)
    columns = min(len(trees), 4 if len(trees) != 3 else 3)
    lines = [trees[at : at + columns] for at in range(0, len(trees), columns)]
    heights = [min(8.0, max(1.0, 0.13 * max(tree.extent for tree in line))) for line in lines]
    figure = canvas(sum(heights) + 0.65 * len(lines), gap=0.05)
    grid = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights)
    for line, height, panels in zip(lines, heights, grid, strict=True):
        for axes in panels[len(line) :]:
            axes.set_visible(False)
        for axes, tree in zip(panels, line, strict=False):
            _tree(axes, tree, height, len(edits))
    return figure


def _tree(axes: Axes, tree: Lineage, height: float, edits: int) -> None:
    """Draw one tree into a panel of this height in inches."""
    bare(axes)
    pitch = min(0.14, height / tree.extent)  # inches for one leaf
    branches: dict[int, list[Path]] = {}
    for level in range(edits):
        for channel, offspring in enumerate(tree.children(level)):
            start = tree.heights[level][channel]
            for child in offspring:
                # A curve from a channel to one of the next level, horizontal at both ends.
                end = tree.heights[level + 1][child]
                middle = level + 0.5
                points = [(level, start), (middle, start), (middle, end), (level + 1, end)]
                curve = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
                branches.setdefault(tree.born[level + 1][child], []).append(curve)
            if not offspring:
                axes.plot([level], [start], "x", color=LIGHT["soft"], markersize=3.5)
    for birth, paths in sorted(branches.items()):
        color = round_color(birth, edits) if birth else LIGHT["quiet"]
        line = {"linewidth": min(1.6, max(0.35, 72 * pitch * 0.28)), "capstyle": "round"}
        body = Path.make_compound_path(*paths)
        axes.add_patch(PathPatch(body, fill=False, edgecolor=color, **line))
    widths = [len(level) for level in tree.heights]
    axes.set_title(f"{shorten(tree.group, 19)}: {widths[0]} → {widths[-1]}", fontsize=9)
    axes.set_xlim(-0.08, edits + 0.08)
    axes.set_ylim(max(tree.extent, height / pitch), 0)
    axes.set_yticks([])
    numbers = range(0, edits + 1, -(-edits // 6))
    axes.xaxis.tick_top()
    axes.set_xticks(numbers, ["seed", *(f"{number}" for number in numbers[1:])])
