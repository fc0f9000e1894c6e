"""Figures of the metric against cost, for the networks of several runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ramify.report.comparison import COSTS, ArmResult, front
from ramify.report.run_figures import COUNTS
from ramify.report.tables import measured
from ramify.report.theme import LIGHT, arm_color, canvas, themed

WIDTH = 5.2
PLACES = ((6, 3), (-6, 3), (6, -9), (-6, -9), (6, 13), (-6, 13))  # offsets of a number from its dot
NARROW = 3.0  # costs within this factor have a linear axis
SPANS, NEAR = 2.0, 0.05  # in ranges of the front, and as a share: worse networks are at the edge


@themed
def front_figure(networks: Sequence[ArmResult], cost: str) -> Figure:
    """The metric against one cost, with the Pareto front as a line, at one scale for all costs.

    Args:
        networks: Networks with one data set and one metric; those with unknown cost are left out.
        cost: A name in `COSTS`.

    Returns:
        A dot for each network, with its number and error bars of one deviation over seeds.
    """
    figure = canvas(3.5, width=WIDTH)
    axes = figure.subplots()
    known = [one for one in networks if one.cost(cost) is not None]
    best = front(known, cost)
    metric = known[0].metric
    sign, scale = metric.worth(1.0), metric.scale
    low = scale * min(_worst_shown(networks, each) for each in COSTS)  # same scale in all figures
    steps = [(_cost(one, cost), scale * one.value) for one in best]
    axes.plot(*zip(*steps, strict=True), drawstyle="steps-post", color=LIGHT["accent"], alpha=0.55)
    top = max(scale * (one.worth + (measured(one.row)["sd"] or 0)) for one in networks)
    pad = 0.08 * (top - low) or 0.005 * scale
    edge = low - pad
    spots = {one.number: (_cost(one, cost), sign * _height(one, low, edge)) for one in known}
    for one in known:
        _dot(axes, one, spots[one.number])
    axes.margins(x=0.09)
    axes.set_ylim(*sorted((sign * (edge - 0.4 * pad), sign * (top + 1.6 * pad))))
    _cost_axis(axes, [_cost(one, cost) for one in known], cost)
    _number(axes, [*best, *(one for one in known if one not in best)], len(best), spots)
    axes.set_xlabel(f"{COSTS[cost]} for one sample" if cost != "params" else COSTS[cost])
    axes.set_ylabel(metric.axis)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    return figure


def _cost(one: ArmResult, cost: str) -> float:
    found = one.cost(cost)
    assert found is not None
    return found


def _height(one: ArmResult, low: float, edge: float) -> float:
    """The height at which a network is drawn: that of its metric, or the edge."""
    worth = one.metric.scale * one.worth
    return worth if worth >= low else edge


def _worst_shown(networks: Sequence[ArmResult], cost: str) -> float:
    """The worst metric value inside the figure, which depends on the range of the front."""
    best = [one.worth for one in front(networks, cost)]
    if not best:  # no network of known cost
        return math.inf
    near = NEAR * max(abs(max(best)), 1.0)
    bar = max(best) - max(SPANS * (max(best) - min(best)), near)
    return min(one.worth for one in networks if one.worth >= bar)


def _dot(axes: Axes, one: ArmResult, spot: tuple[float, float]) -> None:
    (x, y), color = spot, arm_color(one.arm)
    metric = one.metric
    beyond = y != metric.worth(metric.scale * one.worth)
    edge = "v" if metric.higher else "^"
    look: dict[str, Any] = {"color": color, "marker": edge if beyond else "o", "markersize": 6}
    if not one.main:
        look |= {"markerfacecolor": LIGHT["card"], "markeredgewidth": 1.4}
    spread = metric.scale * (measured(one.row)["sd"] or 0.0)
    if spread and not beyond:
        axes.plot([x, x], [y - spread, y + spread], color=color, linewidth=1.1, alpha=0.45)
    axes.plot([x], [y], linestyle="", zorder=3, **look)


def _number(
    axes: Axes,
    networks: Sequence[ArmResult],
    sure: int,
    spots: Mapping[int, tuple[float, float]],
) -> None:
    """Write the number of each network next to its dot, unless it covers another number or dot.

    The first ``sure`` networks always get their numbers.
    """
    dots = {number: tuple(axes.transData.transform(spot)) for number, spot in spots.items()}
    point, taken = axes.figure.dpi / 72, list[tuple[float, float]]()
    for place, one in enumerate(networks):
        (x, y), others = dots[one.number], [dot for n, dot in dots.items() if n != one.number]
        centres = {
            shift: (x + point * (shift[0] + math.copysign(5, shift[0])), y + point * (shift[1] + 3))
            for shift in PLACES
        }
        free = [
            shift
            for shift, at in centres.items()
            if not _near(at, taken, 15, 11) and not _near(at, others, 12, 9)
        ]
        if not free and place >= sure:
            continue
        shift = free[0] if free else PLACES[0]
        taken.append(centres[shift])
        axes.annotate(
            f"{one.number}",
            spots[one.number],
            xytext=shift,
            textcoords="offset points",
            ha="left" if shift[0] > 0 else "right",
            fontsize=8.5,
            color=LIGHT["ink" if one.main else "soft"],
        )


def _near(
    at: tuple[float, float], others: Sequence[tuple[float, ...]], across: float, up: float
) -> bool:
    """Whether something is within this many pixels."""
    return any(abs(at[0] - x) < across and abs(at[1] - y) < up for x, y in others)


def _cost_axis(axes: Axes, costs: Sequence[float], cost: str) -> None:
    """A logarithmic axis if costs are far apart, with ticks that do not overlap."""
    ratio = max(costs) / min(costs) if min(costs) > 0 else math.inf
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    if NARROW < ratio < math.inf:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 100 else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(plain if cost == "latency" else COUNTS)
