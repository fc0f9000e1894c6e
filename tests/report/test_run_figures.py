"""Figures of a whole run show what its events say."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from ramify.report.run_figures import (
    arms_figure,
    gains_figure,
    progress_figure,
    sizes_figure,
    tick,
)

Events = list[dict[str, Any]]
RUN_FIGURES = [progress_figure, arms_figure, gains_figure, sizes_figure]


def texts(figure: Figure) -> list[str]:
    """Every text that is drawn, after laying the figure out."""
    figure.draw_without_rendering()
    found: list[Any] = figure.findobj(Text)
    return [text.get_text() for text in found if text.get_visible() and text.get_text()]


def points(line: Line2D) -> list[tuple[float, float]]:
    """The points of a line."""
    return list(zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True))


@pytest.mark.parametrize("draw", RUN_FIGURES)
def test_figures_of_a_run_leave_settings_alone(
    draw: Callable[[Sequence[Any]], Figure], events: Events
) -> None:
    before = dict(matplotlib.rcParams)
    assert draw(events).axes
    assert dict(matplotlib.rcParams) == before


def test_progress_draws_the_mean_of_every_arm_and_every_split(
    events: Events, edits: Events
) -> None:
    figure = progress_figure(events)
    accuracy, params = figure.axes
    curves = [points(line) for line in accuracy.lines if len(points(line)) > 2]
    assert len(curves) == 4
    seeds = [
        [e["test_accuracy"] for e in events if e["job"] == f"seed-{n}" and e["event"] == "epoch"]
        for n in range(3)
    ]
    means = [100 * sum(values) / 3 for values in zip(*seeds, strict=True)]
    assert [value for _, value in curves[0]] == pytest.approx(means)
    band = accuracy.collections[0].get_paths()[0].vertices
    spread = [100 * statistics.stdev(values) for values in zip(*seeds, strict=True)]
    heights = np.ptp(np.array([np.asarray(band)[1:25, 1], np.asarray(band)[26:50, 1][::-1]]), 0)
    assert heights == pytest.approx([2 * value for value in spread])
    low, high = accuracy.get_ylim()
    late = [value for curve in curves for step, value in curve if step >= curves[0][-1][0] // 2]
    assert low < min(late)
    assert 2 * (max(late) - min(late)) <= high - low <= 3 * max(1.0, max(late) - min(late))
    stairs = dict(points(params.lines[3]))
    for edit in edits:
        assert stairs[edit["step"]] == edit["params_after"]
    assert {"split 1", "split 2", "split 3", "grown", "wide"} <= set(texts(figure))


def test_progress_draws_networks_where_seeds_were_tested_at_other_steps(events: Events) -> None:
    later = [
        event | {"step": event["step"] + (event["job"] == "grown-1")}
        for event in events
        if "step" in event
    ]
    accuracy = progress_figure(later).axes[0]
    assert len([line for line in accuracy.lines if len(points(line)) > 2]) == 3 + 3


def test_progress_of_one_epoch_is_a_dot(events: Events) -> None:
    assert progress_figure(events[:1]).axes[0].lines[0].get_marker() == "o"


def test_what_lies_below_the_figure_of_training_is_told(events: Events) -> None:
    shown = [dict(event) for event in events]
    first = next(e for e in shown if e["event"] == "epoch" and e["job"] == "grown-0")
    first["test_accuracy"] = 0.0123
    for event in shown:  # networks, not means
        if event["event"] == "epoch" and event["job"] == "grown-0":
            event["step"] += 1
    assert "↓ from 1.23 %" in texts(progress_figure(shown))


def test_sizes_join_what_one_run_gave_and_what_a_run_for_each_gave(sized: Events) -> None:
    figure = sizes_figure(sized)
    one, each = (line for line in figure.axes[0].lines if line.get_marker() == "|")
    results = [event for event in sized if event["event"] == "result"]
    for line, arms in (
        (one, ("cut-150", "cut-300", "grown")),
        (each, ("wide-150", "wide-300", "wide")),
    ):
        wanted = []
        for arm in arms:
            own = [event for event in results if event["arm"] == arm]
            size = sum(event["params"] for event in own) / len(own)
            wanted.append((size, 100 * sum(event["test_accuracy"] for event in own) / len(own)))
        assert np.array(points(line)) == pytest.approx(np.array(wanted))
    assert {"one run: grown, then cut", "separate runs"} <= set(texts(figure))


def test_gains_skip_edits_without_measurement(events: Events) -> None:
    edits = [event for event in events if event["event"] == "edit"]
    figure = gains_figure([{**edits[0], "loss_before": None}, *edits[1:]])
    drawn = [line for line in figure.axes[0].lines if len(points(line)) == 1]
    assert len(drawn) == len(edits) - 1


def test_counts_on_an_axis_are_brief() -> None:
    assert [tick(value) for value in (0, 1500, 1e6, 2.5e6)] == ["0", "1,500", "1 M", "2.5 M"]
