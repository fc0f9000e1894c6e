"""Figures of a run as a whole: pure functions from events to a matplotlib figure.

The k-th edit of a job is called split k, prune k, or edit k if a job has both.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ramify.commands.grow_settings import CUT, WIDE
from ramify.data import Metric
from ramify.report.events import (
    MAIN,
    Event,
    arms_of,
    by_job,
    measured_gain,
    metric_of,
    noun,
    of_kind,
    value_of,
)
from ramify.report.tables import measured, results_table, statistic, unit_of
from ramify.report.theme import LIGHT, arm_color, canvas, round_color, themed

_DASHES: dict[str, Any] = {
    "seed": (0, (1, 1.6)),
    "scratch": (0, (5, 2)),
    "wide": (0, (6, 2, 1, 2)),
}
_EQUAL: dict[str, Any] = {"color": LIGHT["soft"], "linewidth": 0.9, "linestyle": (0, (4, 3))}
COUNTS = FuncFormatter(lambda value, _: tick(value))
"""Formats the ticks of an axis of counts."""
_MARKERS = "osD^vPX*"


def tick(value: float) -> str:
    """Format a count for an axis, such as '7.5 M' or '1,000'."""
    size, unit, _ = unit_of(value)
    return f"{value / size:,.4g}{unit}" if unit else f"{value:,.0f}"


# ------------------------------------------------------------------ metric and parameters


@themed
def progress_figure(events: Sequence[Event]) -> Figure:
    """The metric and parameters of each arm over its steps; edits are vertical lines.

    Args:
        events: the events of a run, with at least one epoch.

    Returns:
        If all seeds were tested at the same steps, a line is their mean, with one deviation as a
        band; otherwise each network has a line.
    """
    figure = canvas(5.4)
    above, params = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    metric = metric_of(events)
    curves: list[list[tuple[int, float]]] = []
    for arm in arms_of(events):
        style = _line_style(arm)
        jobs = [own for own in by_job(events).values() if own[0]["arm"] == arm]
        known = [points for own in jobs if (points := _values(own))]
        for own in jobs:
            if of_kind(own, "epoch"):
                params.plot(*_sizes(own), drawstyle="steps-post", **style)
        curves += _draw_values(above, known, style, metric)
    _mark_edits(above, params, events)
    middle = max(step for curve in curves for step, _ in curve) // 2
    above.set_ylim(*focus(curves, middle, metric))
    tell_hidden(above, curves, metric)
    above.set_ylabel(metric.axis)
    params.set_ylabel("parameters")
    params.set_xlabel("training steps (batches)")
    for axis in (params.xaxis, params.yaxis):
        axis.set_major_formatter(COUNTS)
    params.margins(y=0.1)
    params.set_ylim(bottom=0)
    params.set_xlim(left=0)
    lines = [Line2D([], [], label=arm, **_line_style(arm)) for arm in arms_of(events)]
    figure.legend(handles=lines, loc="outside upper right", ncols=len(lines), handlelength=3)
    return figure


def _values(job: Sequence[Event]) -> list[tuple[int, float]]:
    """The steps at which a network was tested, and its metric there."""
    return [(epoch["step"], value_of(epoch)) for epoch in of_kind(job, "epoch")]


def _draw_values(
    axes: Axes, known: Sequence[list[tuple[int, float]]], style: dict[str, Any], metric: Metric
) -> list[list[tuple[int, float]]]:
    """Draw the networks of an arm, as one line if possible, and return the drawn curves."""
    steps = {tuple(step for step, _ in points) for points in known}
    drawn = list(known)
    if len(known) > 1 and len(steps) == 1:
        values = np.array([[value for _, value in points] for points in known])
        [at], mean, spread = steps, values.mean(0), values.std(0, ddof=1)
        drawn = [list(zip(at, mean.tolist(), strict=True))]
        low, high = metric.scale * (mean - spread), metric.scale * (mean + spread)
        axes.fill_between(at, low, high, color=style["color"], alpha=0.13, linewidth=0)
    for points in drawn:
        alone: dict[str, Any] = {"marker": "o", "markersize": 4} if len(points) == 1 else {}
        heights = [metric.scale * value for _, value in points]
        axes.plot([step for step, _ in points], heights, **style, **alone)
    return drawn


def focus(
    curves: Sequence[Sequence[tuple[int, float]]], since: int, metric: Metric
) -> tuple[float, float]:
    """The range of the axis of a metric, in the axis's unit.

    Args:
        curves: Steps and values of each line.
        since: The step from which values count.
        metric: The metric of the values.

    Returns:
        The lowest and the highest value. Values after that step take at least half of the height;
        worse values from the beginning of training may lie outside.
    """
    scale = metric.worth(metric.scale)
    every = [scale * value for points in curves for _, value in points]
    late = [scale * value for points in curves for step, value in points if step >= since]
    if not every:
        return 0.0, metric.scale
    best = max(every)
    worst = min(late, default=min(every))
    room = max(best - worst, 0.01 * (metric.scale if metric.higher else abs(best)))
    ends = max(min(every), worst - room) - 0.12 * room, best + 0.12 * room
    return ends if metric.higher else (-ends[1], -ends[0])


def tell_hidden(axes: Axes, curves: Sequence[Sequence[tuple[int, float]]], metric: Metric) -> None:
    """Write at the edge of a figure how far lines extend beyond it, if any do.

    Args:
        axes: the axes of the lines, with their limits.
        curves: steps and values of each line.
        metric: the metric of the values.
    """
    low, high = axes.get_ylim()
    beyond = [v for points in curves for _, v in points if not low <= metric.scale * v <= high]
    if not beyond:
        return
    sign, edge, shift = ("↓ from", 0, 5) if metric.higher else ("↑ from", 1, -12)
    axes.annotate(
        f"{sign} {metric.text(min(beyond, key=metric.worth))}",
        (1, edge),  # away from the values of trained networks
        xycoords="axes fraction",
        xytext=(-5, shift),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=LIGHT["soft"],
    )


def _line_style(arm: str) -> dict[str, Any]:
    color, dashes = arm_color(arm), _DASHES.get(arm, "-")
    if arm in MAIN:
        return {"color": color, "linestyle": dashes, "linewidth": 1.8, "zorder": 3}
    return {"color": color, "linestyle": dashes, "linewidth": 1.2, "zorder": 2, "alpha": 0.7}


def _sizes(job: Sequence[Event]) -> tuple[list[int], list[int]]:
    """Steps at which the size of a network is known, and its parameters from there on."""
    known = {"epoch": "params", "edit": "params_after"}
    moments = [event for event in job if event["event"] in known]
    first = moments[0].get("params_before", moments[0].get("params"))
    sizes = [event[known[event["event"]]] for event in moments]
    return [0, *(event["step"] for event in moments)], [first, *sizes]


def _mark_edits(above: Axes, params: Axes, events: Sequence[Event]) -> None:
    """Draw a line at each step of an edit, numbered as the edits of the first job."""
    edits = of_kind(events, "edit")
    for step in {edit["step"] for edit in edits}:
        for axes in (above, params):
            axes.axvline(step, color=LIGHT["accent"], linewidth=0.8, alpha=0.45, zorder=1)
    first = next(iter(by_job(edits).values()), [])
    for number, edit in enumerate(first, start=1):
        above.annotate(
            f"{noun(first)} {number}" if len(first) <= 6 else f"{number}",
            (edit["step"], 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=LIGHT["accent"],
        )


# ------------------------------------------------------------------ arms side by side


@themed
def arms_figure(events: Sequence[Event]) -> Figure:
    """The metric by arm: a dot for each job, the mean as a bar, one deviation as a band."""
    results, metric = of_kind(events, "result"), metric_of(events)
    arms = arms_of(results)
    figure = canvas(0.75 + 0.36 * len(arms))
    axes = figure.subplots()
    for row, arm in enumerate(arms):
        values = [metric.scale * value_of(one) for one in results if one["arm"] == arm]
        stat, color = statistic(values), arm_color(arm)
        mean, spread = stat["mean"], stat["sd"] or 0.0
        axes.plot([mean - spread, mean + spread], [row, row], color=color, linewidth=5, alpha=0.25)
        axes.plot([mean], [row], "|", color=color, markersize=15, markeredgewidth=2.2)
        axes.plot(values, [row] * len(values), "o", color=color, markersize=5, alpha=0.8)
    axes.set_yticks(range(len(arms)), arms, fontsize=9.5, color=LIGHT["ink"])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.set_xlabel(metric.axis)
    return figure


# ------------------------------------------------------------------ metric against size


@themed
def sizes_figure(events: Sequence[Event]) -> Figure:
    """The metric against parameters, of one run and of a run for each size, with deviations."""
    figure = canvas(3.6)
    axes = figure.subplots()
    curves = (("one run: grown, then cut", "grown", CUT), ("separate runs", "wide", WIDE))
    results, metric = of_kind(events, "result"), metric_of(events)
    for label, arm, prefix in curves:
        own = [e for e in results if e["arm"] == arm or e["arm"].startswith(prefix)]
        rows = sorted(results_table(own), key=lambda row: row["params"]["mean"])
        if not rows:
            continue
        color = arm_color(arm)
        dots = [e["params"] for e in own], [metric.scale * value_of(e) for e in own]
        axes.plot(*dots, "o", color=color, markersize=4, alpha=0.6)
        sizes = [row["params"]["mean"] for row in rows]
        means = np.array([metric.scale * measured(row)["mean"] for row in rows])
        spread = np.array([metric.scale * (measured(row)["sd"] or 0.0) for row in rows])
        axes.plot(sizes, means, label=label, marker="|", markersize=12, **_line_style(arm))
        axes.fill_between(sizes, means - spread, means + spread, color=color, alpha=0.12, lw=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(COUNTS)
    axes.xaxis.set_minor_formatter(COUNTS)
    axes.tick_params(axis="x", which="both", length=3, pad=3)  # align major and minor labels
    axes.set_xlabel("parameters")
    axes.set_ylabel(metric.axis)
    figure.legend(loc="outside upper right", ncols=2, handlelength=3)
    return figure


# ------------------------------------------------------------------ prediction and measurement


@themed
def gains_figure(events: Sequence[Event]) -> Figure:
    """Predicted against measured gain, and both over the edits, a marker for each job."""
    jobs = by_job(of_kind(events, "edit"))
    figure = canvas(3.5)
    against, over = figure.subplots(1, 2, width_ratios=(1, 1.35))
    most = max(len(edits) for edits in jobs.values())
    spots: list[tuple[float, float]] = []
    for place, edits in enumerate(jobs.values()):
        # The jobs are side by side around the number of the edit.
        shift = 0.5 * (place - (len(jobs) - 1) / 2) / len(jobs)
        for number, edit in enumerate(edits, start=1):
            gain = measured_gain(edit)
            if gain is not None:
                spots.append((edit["predicted_gain"], gain))
                color = round_color(number, most)
                _gain_pair(against, over, spots[-1], number + shift, color, _marker(place))
    _identity(against, spots)
    over.axhline(0, color=LIGHT["soft"], linewidth=0.7)
    name = noun(edit for edits in jobs.values() for edit in edits)
    labels = [f"{name} {number}" if most < 7 else f"{number}" for number in range(1, most + 1)]
    over.set_xticks(range(1, most + 1), labels)
    over.tick_params(axis="x", length=0)
    over.grid(False, axis="x")
    over.set_ylabel("decrease of the training loss")
    against.set_xlabel("predicted decrease of the training loss")
    against.set_ylabel("measured decrease")
    plain: dict[str, Any] = {"color": LIGHT["soft"], "linestyle": ""}
    names = [
        *(Line2D([], [], marker=_marker(k), label=job, **plain) for k, job in enumerate(jobs)),
        Line2D([], [], marker="o", markerfacecolor=LIGHT["card"], label="predicted", **plain),
        Line2D([], [], label="measured = predicted", **_EQUAL),
    ]
    figure.legend(handles=names, loc="outside upper right", ncols=len(names))
    return figure


def _marker(place: int) -> str:
    return _MARKERS[place % len(_MARKERS)]


def _gain_pair(
    against: Axes,
    over: Axes,
    spot: tuple[float, float],
    place: float,
    color: str,
    marker: str,
) -> None:
    """One edit in both panels: a hollow marker for the prediction, a filled one as measured."""
    predicted, measured = spot
    over.plot([place, place], [predicted, measured], color=color, linewidth=1.2, alpha=0.6)
    look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 6}
    over.plot([place], [predicted], markerfacecolor=LIGHT["card"], **look)
    over.plot([place], [measured], **look)
    against.plot([predicted], [measured], **look | {"markersize": 6.5})


def _identity(axes: Axes, spots: Sequence[tuple[float, float]]) -> None:
    """The line on which prediction and measurement agree, over the range of the points."""
    low = min(0.0, *(min(spot) for spot in spots))
    high = max(0.0, *(max(spot) for spot in spots))
    axes.axline((0, 0), slope=1, zorder=1, **_EQUAL)
    pad = 0.08 * (high - low) or 1.0
    axes.set_xlim(low - pad * (low < 0), high + pad)
    axes.set_ylim(low - pad * (low < 0), high + pad)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
