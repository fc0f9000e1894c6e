"""Figures of a run that cuts show what its events say."""

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from ramify.report.cut_events import layers_of
from ramify.report.cut_figures import (
    layers_figure,
    phases_figure,
    refit_figure,
    sensitivity_figure,
)
from ramify.report.theme import LIGHT
from tests.report.cut_runs import FULL, SMALL, Events, cut_event, cut_run, sensitivity_event


def texts(figure: Figure) -> list[str]:
    """Every text that is drawn, after laying the figure out; mathematics is not drawn."""
    figure.draw_without_rendering()
    found: list[Any] = figure.findobj(Text)
    shown = [text.get_text() for text in found if text.get_visible() and text.get_text()]
    assert not [text for text in shown if "$" in text]
    return shown


def lines(axes: Axes) -> list[list[tuple[float, float]]]:
    """The points of each line."""
    return [[(float(x), float(y)) for x, y in np.asarray(line.get_xydata())] for line in axes.lines]


def cuts_of(events: Events) -> Events:
    return [event for event in events if event["event"] == "edit"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: phases_figure(cut_run()),
        lambda: layers_figure(cuts_of(cut_run())),
        lambda: refit_figure(cuts_of(cut_run())),
        lambda: sensitivity_figure(sensitivity_event()),
    ],
)
def test_figures_of_a_cut_leave_settings_alone(draw: Callable[[], Figure]) -> None:
    before = dict(matplotlib.rcParams)
    assert draw().axes
    assert dict(matplotlib.rcParams) == before


def test_phases_are_drawn_end_to_end_with_the_cut_marked() -> None:
    figure = phases_figure(cut_run())
    accuracy, size = figure.axes
    curve = [(20.0, 95.0), (20.0, 95.0), (20.0, 90.0), (30.0, 92.0), (40.0, 92.0), (40.0, 93.0)]
    assert lines(accuracy)[0] == [(10.0, 95.0), *(pytest.approx(point) for point in curve)]
    left = 100 * 23 / 30
    stairs = [(0, 100), (20, left), (40, left)]
    assert [pytest.approx(point) for point in stairs] == lines(size)[0]
    shown = texts(figure)
    for words in ("full network", "fine-tuning", "cut", "90.00 %", "93.00 %", "MACs", "parameters"):
        assert words in shown


def test_every_cut_and_every_phase_is_named() -> None:
    shown = texts(phases_figure(cut_run(rounds=2)))
    assert {"full network", "fine-tuning 1", "fine-tuning 2", "cut 1", "cut 2"} <= set(shown)
    assert {"search", "cut"} <= set(texts(phases_figure(cut_run(search=True))))


def test_a_network_that_was_given_stands_at_the_beginning() -> None:
    figure = phases_figure(cut_run(given=True))
    assert {"95.00 %", "90.00 %", "93.00 %", "fine-tuning"} <= set(texts(figure))
    assert "full network" not in texts(figure)
    assert figure.axes[0].get_xlim()[0] < 0


def test_a_phase_without_room_has_no_name() -> None:
    events = cut_run()
    for event in events:
        if event["arm"] == "pruned" and "step" in event:
            event["step"] *= 100
    assert "full network" not in texts(phases_figure(events))


def test_several_networks_are_several_lines() -> None:
    accuracy, _ = phases_figure([*cut_run(0), *cut_run(1)]).axes
    assert len([line for line in lines(accuracy) if len(line) > 2]) == 2
    assert not [text for text in accuracy.texts if "%" in text.get_text()]


def test_what_the_cut_changes_has_half_of_the_height() -> None:
    """The first epochs of the full network, at 10 %, would press everything else together."""
    events = cut_run()
    events[0]["test_accuracy"] = 0.1
    low, high = phases_figure(events).axes[0].get_ylim()
    assert 80 < low < 90
    assert 95 < high < 100
    assert "↓ from 10.00 %" in texts(phases_figure(events))
    assert not [text for text in texts(phases_figure(cut_run())) if "↓" in text]


def test_two_values_that_lie_close_have_one_name() -> None:
    events = cut_run(given=True)
    cut = next(event for event in events if event["event"] == "edit")
    cut["test_accuracy_after"] = 0.949
    shown = texts(phases_figure(events))
    assert "95.00 → 94.90 %" in shown
    assert not {"95.00 %", "94.90 %"} & set(shown)


def test_layers_have_bars_floors_and_costs() -> None:
    figure = layers_figure([cut_event(FULL, SMALL[0])])
    widths, shares, costs = figure.axes
    assert [bar.get_width() for bar in widths.patches] == [8, 12, 4, 9]  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in shares.patches] == [1, 1, 0.5, 0.75]  # type: ignore[attr-defined]
    assert [text.get_text() for text in shares.texts] == ["4 of 8", "9 of 12"]
    strokes = [line[0][0] for line in lines(shares)]
    assert strokes == [2 / 8, 2 / 12]
    dots = [line[0] for line in lines(costs) if len(line) == 1]
    assert dots == [(0.004, 0.0), (0.005, 0.0), (0.006, 1.0), (0.008, 1.0)]
    assert {"conv1", "conv2", "last removed", "next to be removed"} <= set(texts(figure))
    assert "cost of a channel: rise of the loss" in texts(figure)


def test_a_floor_that_was_reached_is_red() -> None:
    cuts = [cut_event(FULL, SMALL[0]), cut_event(*SMALL)]
    colors = [to_rgba(line.get_color()) for line in layers_figure(cuts).axes[1].lines]
    assert colors == [to_rgba(LIGHT["split"]), to_rgba(LIGHT["soft"])]
    for cut in cuts:
        del cut["floors"]
    assert not layers_figure(cuts).axes[1].lines


@pytest.mark.parametrize("first, scale", [(1.0, "log"), (0.0, "symlog"), (-1.0, "linear")])
def test_costs_that_differ_by_far_are_on_logarithms(first: float, scale: str) -> None:
    cut = cut_event(FULL, SMALL[0])
    for proposal in cut["proposals"]:
        dear = 1.0 if proposal["selected"] else 100.0
        cost = first if proposal["group"] == "conv1" else dear
        proposal |= {"gain": -cost, "score": -cost}
    figure = layers_figure([cut])
    assert figure.axes[2].get_xscale() == scale
    assert texts(figure)
    assert layers_figure([cut_event(FULL, SMALL[0])]).axes[2].get_xscale() == "linear"


def test_many_layers_have_a_row_each() -> None:
    wide = {f"block.{number}": 8 for number in range(60)}
    cut = cut_event(FULL, SMALL[0])
    proposals = [{**cut["proposals"][0], "group": group} for group in wide]
    cut |= {"widths_before": wide, "widths_after": dict.fromkeys(wide, 7), "proposals": proposals}
    figure = layers_figure([cut])
    assert len(figure.axes[0].get_yticks()) == 60
    assert figure.get_figheight() > 60 * 0.2


def test_refits_have_error_before_and_after_and_lambda() -> None:
    figure = refit_figure([cut_event(FULL, SMALL[0])])
    [axes] = figure.axes
    assert [line for line in lines(axes) if len(line) == 1] == [
        *([(0.4, 0.0)], [(0.02, 0.0)]),
        *([(0.1, 1.0)], [(0.05, 1.0)]),
    ]
    shown = texts(figure)
    assert {"conv2", "head", "λ 0.01", "λ 0.1", "before the refit", "after the refit"} <= set(shown)
    assert "conv1" not in shown


def test_refits_of_several_cuts_stand_side_by_side() -> None:
    cuts = [cut_event(FULL, SMALL[0]) for _ in range(5)]
    titles = [axes.get_title() for axes in refit_figure(cuts).axes]
    assert titles == ["cut 1", "cut 3", "cut 5"]


def test_sensitivity_is_a_panel_for_each_layer_with_what_was_cut() -> None:
    layers = layers_of([cut_event(FULL, SMALL[0])])
    figure = sensitivity_figure(sensitivity_event(), layers)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["conv1", "conv2"]
    first, second = figure.axes
    assert [(0.0, 0.1), (0.25, 0.2), (0.5, 0.4)] in lines(first)
    assert [[x for x, _ in lines(axes)[-1]] for axes in (first, second)] == [[0.5] * 2, [0.25] * 2]
    assert first.get_yscale() == "log"  # a loss of 9 beside one of 0.1
    assert texts(figure)


def test_sensitivity_without_a_cut_or_with_gaps() -> None:
    event = sensitivity_event()
    event["groups"] = {f"layer{number}": [[0.5, None], [0.25, 0.2]] for number in range(8)}
    figure = sensitivity_figure(event)
    assert len([axes for axes in figure.axes if axes.get_visible()]) == 8
    assert [(0.0, 0.1), (0.25, 0.2)] in lines(figure.axes[0])
    assert figure.axes[0].get_yscale() == "linear"
