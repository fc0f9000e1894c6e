"""Figures of a run of ``ramify prune``: pure functions from its events to a matplotlib figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ramify.data import Metric
from ramify.report.cut_events import (
    Layer,
    RefittedLayer,
    by_seed,
    curve,
    in_loss,
    layers_of,
    offsets,
    phases,
    refitted_layers,
    sizes,
)
from ramify.report.events import Event, metric_of
from ramify.report.run_figures import COUNTS, focus, tell_hidden
from ramify.report.theme import LIGHT, canvas, layer_rows, shorten, themed

_WENT, _STAYED = LIGHT["prune"], LIGHT["accent"]
# If both cost the same, one marker is visible inside the other.
_LAST: dict[str, Any] = {"marker": "o", "markersize": 7, "color": _WENT}
_LAST |= {"markerfacecolor": LIGHT["card"], "markeredgewidth": 1.4}
_NEXT: dict[str, Any] = {"marker": "o", "markersize": 3.6, "color": _STAYED}
_SHORT = FuncFormatter(lambda value, _: f"{value:.3g}".replace("-", "−"))
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.3g} %")
_LEAST_MISSED = 1e-6  # smaller errors are negligible, so the axis ends here
_CLOSE = 0.09  # of the height of a figure; closer names would overlap
_MOST_CUTS = 3  # number of cuts whose refits fit side by side

# ------------------------------------------------------------------ the phases


@themed
def phases_figure(events: Sequence[Event]) -> Figure:
    """The metric and size of the networks over all phases of the run."""
    seeds = by_seed(events)
    spans, marks = phases(seeds)
    starts = offsets(seeds)
    figure = canvas(5.2)
    above, size = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.5))
    metric = metric_of(events)
    curves = [curve(own, starts) for own in seeds.values()]
    for points in curves:
        heights = [metric.scale * value for _, value in points]
        clear = 1.0 if len(curves) == 1 else 0.55
        steps = [step for step, _ in points]
        above.plot(steps, heights, color=_STAYED, linewidth=1.8, alpha=clear)
    above.set_ylim(*focus(curves, min(marks, default=0), metric))
    tell_hidden(above, curves, metric)
    if len(curves) == 1:
        _name_values(above, curves[0], marks, metric)
    looks = [("MACs", "macs", _STAYED, 3.6), ("parameters", "params", _WENT, 1.2)]
    for name, unit, color, width in looks:
        look: dict[str, Any] = {"color": color, "linewidth": width}
        for own in seeds.values():
            stairs = sizes(own, starts, unit)
            where = [step for step, _ in stairs], [100 * share for _, share in stairs]
            size.plot(*where, drawstyle="steps-post", alpha=0.8, **look)
        size.plot([], [], label=name, **look)
    _mark_phases(above, size, [(s.name, s.start, s.end) for s in spans], marks)
    above.set_ylabel(metric.axis)
    size.set_ylabel("% of the full network")
    size.set_xlabel("training steps (batches)")
    size.xaxis.set_major_locator(MaxNLocator(integer=True))
    size.xaxis.set_major_formatter(COUNTS)
    size.set_ylim(0, 108)
    # A full network given by the user is drawn a little away from the edge.
    size.set_xlim(-0.03 * starts[""] if 0 in marks else 0, starts[""])
    size.legend(loc="lower left", ncols=2)
    return figure


def _mark_phases(
    above: Axes, size: Axes, spans: Sequence[tuple[str, int, int]], marks: Sequence[int]
) -> None:
    """Shade every second phase, name phases that are wide enough, and draw a line at each cut."""
    whole = max((end for _, _, end in spans), default=1)
    for number, (name, start, end) in enumerate(spans):
        for axes in (above, size):
            if number % 2:
                axes.axvspan(start, end, color=LIGHT["grid"], alpha=0.6, linewidth=0, zorder=0)
        if (end - start) / whole > 0.011 * len(name):
            _above(above, name, (start + end) / 2, LIGHT["soft"])
    for number, mark in enumerate(marks, start=1):
        for axes in (above, size):
            axes.axvline(mark, color=LIGHT["split"], linewidth=0.9, alpha=0.7, zorder=1)
        size.annotate(
            "cut" if len(marks) == 1 else f"cut {number}",
            (mark, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -11) if mark < 0.9 * whole else (-4, -11),
            textcoords="offset points",
            ha="left" if mark < 0.9 * whole else "right",
            fontsize=8.5,
            color=LIGHT["split"],
        )


def _above(axes: Axes, text: str, place: float, color: str) -> None:
    where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(text, (place, 1), xytext=(0, 4), ha="center", fontsize=8.5, color=color, **where)


def _name_values(
    axes: Axes, points: Sequence[tuple[int, float]], marks: Sequence[int], metric: Metric
) -> None:
    """Write the metric right after each cut, at the end, and of a network given by the user."""
    last = points[-1][0]
    after = [max(k for k, (step, _) in enumerate(points) if step == mark) for mark in marks]
    together = 0 in marks and points[after[0]][0] < last
    together &= _close(axes, points[0], points[after[0] if after else 0], metric.scale)
    if 0 in marks:
        _name_value(axes, points[0], (6, -3), "" if together else metric.text(points[0][1]), metric)
    # After a cut at the end of the run there is only the measurement at that step.
    chosen = sorted({*(k for k in after if points[k][0] < last), len(points) - 1})
    for number in chosen:
        value, behind = points[number][1], points[min(number + 1, len(points) - 1)][1]
        if points[number][0] < last:
            shift = (6, 5 if behind < value else -10)  # away from the line
        else:
            shift = (-4, 7 if value >= points[number - 1][1] else -13)
        both = together and number == after[0]
        text = metric.change(points[0][1], value).replace("->", "→") if both else metric.text(value)
        _name_value(axes, points[number], shift, text, metric)


def _close(axes: Axes, one: tuple[int, float], two: tuple[int, float], scale: float) -> bool:
    """Whether the labels of two values at one step would overlap."""
    low, high = axes.get_ylim()
    return scale * abs(one[1] - two[1]) < _CLOSE * (high - low)


def _name_value(
    axes: Axes, point: tuple[int, float], shift: tuple[int, int], text: str, metric: Metric
) -> None:
    """A dot with its value next to it, at a distance in points."""
    step, value = point
    height = metric.scale * value
    axes.plot([step], [height], "o", color=_STAYED, markersize=5, clip_on=False)
    axes.annotate(
        text,
        (step, height),
        xytext=shift,
        textcoords="offset points",
        ha="left" if shift[0] > 0 else "right",
        fontsize=8.5,
    )


# ------------------------------------------------------------------ the layers


@themed
def layers_figure(cuts: Sequence[Event]) -> Figure:
    """Each layer's channels before and after, the share left, and the cost of its channels."""
    layers = layers_of(cuts)
    figure = canvas(0.95 + 0.23 * len(layers), gap=0.03)
    widths, shares, costs = figure.subplots(1, 3, sharey=True, width_ratios=(1.0, 1.25, 1.6))
    _widths(widths, layers)
    _shares(shares, layers)
    _costs(costs, layers, "rise of the loss" if in_loss(cuts) else "score of the method")
    layer_rows(widths, [layer.group for layer in layers])
    for axes in (shares, costs):
        axes.tick_params(axis="y", length=0, labelleft=False)
        axes.grid(False, axis="y")
    return figure


def _widths(axes: Axes, layers: Sequence[Layer]) -> None:
    rows = np.arange(len(layers))
    before, after = [layer.before for layer in layers], [layer.after for layer in layers]
    axes.barh(rows, before, height=0.74, fill=False, edgecolor=LIGHT["quiet"])
    axes.barh(rows, after, height=0.74, color=LIGHT["body"])
    axes.set_xlabel("channels")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def _shares(axes: Axes, layers: Sequence[Layer]) -> None:
    rows = np.arange(len(layers))
    left = [layer.after / layer.before for layer in layers]
    axes.barh(rows, np.ones(len(layers)), height=0.74, color=LIGHT["grid"])
    axes.barh(rows, left, height=0.74, color=LIGHT["body"])
    for row, layer in enumerate(layers):
        text = f"{layer.after} of {layer.before}"
        axes.text(1.03, row, text, va="center", fontsize=8, color=LIGHT["soft"])
        if layer.floor is not None:
            place = layer.floor / layer.before
            bound = LIGHT["split" if layer.after <= layer.floor else "soft"]
            axes.plot([place, place], [row - 0.37, row + 0.37], color=bound, linewidth=1.6)
    axes.set_xlim(0, 1.38)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.set_xlabel("share kept, and the floor")


def _costs(axes: Axes, layers: Sequence[Layer], unit: str) -> None:
    """The most expensive removed channel and the cheapest kept one, joined by a line."""
    for row, layer in enumerate(layers):
        known = [cost for cost in (layer.taken, layer.left) if cost is not None]
        if len(known) == 2:
            axes.plot(known, [row, row], color=LIGHT["quiet"], linewidth=1.4, zorder=1)
        for cost, look in ((layer.taken, _LAST), (layer.left, _NEXT)):
            if cost is not None:
                axes.plot([cost], [row], **look)
    every = [cost for layer in layers for cost in (layer.taken, layer.left) if cost is not None]
    _cost_scale(axes, np.array(every))
    looks = [(_LAST, "last removed"), (_NEXT, "next to be removed")]
    handles = [Line2D([], [], linestyle="", label=name, **look) for look, name in looks]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)
    axes.set_xlabel(f"cost of a channel: {unit}")


def _cost_scale(axes: Axes, costs: np.ndarray) -> None:
    """A log scale if costs differ by much, with channels of zero cost at the left."""
    positive = costs[costs > 0]
    if not len(positive) or (costs < 0).any() or positive.max() < 20 * positive.min():
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(_SHORT)
        return
    if len(positive) < len(costs):
        axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.4)
        axes.set_xlim(left=-0.1 * positive.min())
        axes.xaxis.set_major_formatter(_SHORT)
    else:
        _log_scale(axes, positive)


def _log_scale(axes: Axes, values: np.ndarray) -> None:
    """A log scale on x, with a label at each power of ten, or more labels if there are few."""
    axes.set_xscale("log")
    few = values.max() < 100 * values.min()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,), numticks=8))
    axes.xaxis.set_major_formatter(_SHORT)
    axes.xaxis.set_minor_formatter(NullFormatter())


# ------------------------------------------------------------------ the refit


@themed
def refit_figure(cuts: Sequence[Event]) -> Figure:
    """The output error of each layer, before and after it was refitted.

    Args:
        cuts: the edits of one network; of more than three, the first, middle and last are drawn.

    Returns:
        A panel for each cut, with λ at the right of every row.
    """
    place = np.linspace(0, len(cuts) - 1, min(len(cuts), _MOST_CUTS)).round().astype(int)
    shown = {
        number: {r.name: r for r in refitted_layers(cuts[number])} for number in place.tolist()
    }
    names = list(dict.fromkeys(name for readers in shown.values() for name in readers))
    figure = canvas(0.95 + 0.23 * len(names))
    panels = figure.subplots(1, len(shown), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (number, readers) in zip(panels, shown.items(), strict=True):
        _dumbbells(axes, [readers.get(name) for name in names])
        if len(cuts) > 1:
            axes.set_title(f"cut {number + 1}", loc="center")
    layer_rows(panels[0], names)
    missed = [v for own in shown.values() for r in own.values() for v in (r.before, r.after)]
    _log_scale(panels[0], np.maximum(missed, _LEAST_MISSED))
    panels[0].xaxis.set_major_formatter(_PERCENT)
    looks = [(LIGHT["card"], "before the refit"), (_STAYED, "after the refit")]
    handles = [
        Line2D([], [], color=_STAYED, marker="o", linestyle="", markerfacecolor=face, label=name)
        for face, name in looks
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    figure.supxlabel("error of the layer's output, relative to its variance", fontsize=9)
    return figure


def _dumbbells(axes: Axes, readers: Sequence[RefittedLayer | None]) -> None:
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    for row, reader in enumerate(readers):
        if reader is None:
            continue
        before, after = (max(value, _LEAST_MISSED) for value in (reader.before, reader.after))
        axes.plot([after, before], [row, row], color=LIGHT["quiet"], linewidth=1.4, zorder=1)
        look: dict[str, Any] = {"color": _STAYED, "markersize": 4.5, "marker": "o"}
        axes.plot([before], [row], markerfacecolor=LIGHT["card"], **look)
        axes.plot([after], [row], **look)
        axes.annotate(
            f"λ {reader.strength:.2g}",
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=LIGHT["soft"],
        )


# ------------------------------------------------------------------ the sensitivity


@themed
def sensitivity_figure(event: Event, layers: Sequence[Layer] = ()) -> Figure:
    """The loss against the share cut, in a small panel for each group, with the actual cuts.

    Args:
        event: the sensitivity event.
        layers: the effects of the cuts, whose shares are vertical lines.

    Returns:
        Panels with shared axes, in forward order.
    """
    groups: Mapping[str, Sequence[Sequence[float]]] = event["groups"]
    columns = min(len(groups), 6)
    lines = -(-len(groups) // columns)
    figure = canvas(0.5 + 1.25 * lines, gap=0.04)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    went = {layer.group: 1 - layer.after / layer.before for layer in layers}
    losses = [loss for trials in groups.values() for _, loss in trials if loss is not None]
    finite = [loss for loss in losses if np.isfinite(loss)]
    for axes, (group, trials) in zip(grid.flat, groups.items(), strict=False):
        known = sorted((share, loss) for share, loss in trials if loss is not None)
        shares = [0.0, *(share for share, _ in known)]
        rises = [event["loss"], *(loss for _, loss in known)]
        axes.axhline(event["loss"], color=LIGHT["quiet"], linewidth=0.8)
        axes.plot(shares, rises, color=_STAYED, marker="o", markersize=3, linewidth=1.4)
        if group in went:
            axes.axvline(went[group], color=_WENT, linewidth=1.2, linestyle=(0, (3, 2)))
        axes.set_title(shorten(group, 20), fontsize=8.5, fontweight="normal")
    for axes in grid.flat[len(groups) :]:
        axes.set_visible(False)
    first = grid[0][0]
    if event["loss"] > 0 and max(finite, default=0.0) > 10 * event["loss"]:
        first.set_yscale("log")
        first.yaxis.set_major_formatter(_SHORT)
        first.yaxis.set_minor_formatter(NullFormatter())
    first.set_xlim(0, 1)
    first.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    figure.supxlabel("share of the channels of one layer that is removed", fontsize=9)
    figure.supylabel("loss", fontsize=9)
    return figure
