"""Figures of how one network took its shape show what its edits say."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.path import Path as MplPath
from matplotlib.text import Text

from ramify.report.events import noun, ranking_field
from ramify.report.job_figures import (
    channels_figure,
    lineage_figure,
    proposals_figure,
    remaining_figure,
    widths_figure,
)
from ramify.report.theme import LIGHT

Events = list[dict[str, Any]]
JOB_FIGURES = [widths_figure, channels_figure, proposals_figure, lineage_figure]


def texts(figure: Figure) -> list[str]:
    """Every text that is drawn, after laying the figure out."""
    figure.draw_without_rendering()
    found: list[Any] = figure.findobj(Text)
    return [text.get_text() for text in found if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("draw", JOB_FIGURES)
def test_figures_of_a_job_leave_settings_alone(
    draw: Callable[[Sequence[Any]], Figure], edits: Events
) -> None:
    before = dict(matplotlib.rcParams)
    assert draw(edits).axes
    assert dict(matplotlib.rcParams) == before


def test_widths_are_written_beside_the_bars(edits: Events) -> None:
    figure = widths_figure(edits)
    assert [axes.get_title() for axes in figure.axes] == [
        "seed",
        "after split 1",
        "after split 2",
        "after split 3",
    ]
    last = [text.get_text() for text in figure.axes[-1].texts]
    assert last == [str(width) for width in edits[-1]["widths_after"].values()]


def test_bars_show_what_a_split_added_and_a_prune_left(edits: Events) -> None:
    edit = {**edits[0], "widths_before": {"a": 4, "b": 4}, "widths_after": {"a": 6, "b": 3}}
    patches = widths_figure([edit]).axes[1].patches
    assert [bar.get_width() for bar in patches] == [6, 4, 3, 4, 3]  # type: ignore[attr-defined]
    assert [bar.get_fill() for bar in patches] == [True, True, True, False, True]


def test_many_splits_show_first_and_last(edits: Events) -> None:
    figure = widths_figure([edits[0]] * 20)
    assert len(figure.axes) == 9
    assert figure.axes[0].get_title() == "seed"
    assert figure.axes[-1].get_title() == "after split 20"


def test_proposals_count_and_axis(edits: Events) -> None:
    shown = texts(proposals_figure(edits))
    chosen = sum(proposal["selected"] for proposal in edits[1]["proposals"])
    assert f"split 2: {chosen} of {len(edits[1]['proposals'])}" in shown
    assert "splitting index" in shown


def test_most_promising_channels_come_first(edits: Events) -> None:
    ranked = proposals_figure(edits[:1]).axes[0]
    rest, chosen = [np.asarray(patch.get_data().values) for patch in ranked.patches]  # type: ignore[attr-defined]
    together = np.where(np.isnan(chosen), rest, chosen)
    assert list(together) == sorted(proposal["index"] for proposal in edits[0]["proposals"])
    marks = {p["index"] for p in edits[0]["proposals"] if p["selected"]}
    assert set(chosen[~np.isnan(chosen)]) == marks


def test_method_without_index_is_ranked_by_gain(edits: Events) -> None:
    proposals = [{**proposal, "index": None} for proposal in edits[0]["proposals"]]
    assert ranking_field(proposals) == "gain"
    scored = [{**proposal, "score": 0.5} for proposal in proposals]
    assert ranking_field(scored) == "score"
    assert "score of the method" in texts(proposals_figure([{**edits[0], "proposals": scored}]))
    shown = texts(proposals_figure([{**edits[0], "proposals": proposals}]))
    assert "predicted gain (loss)" in shown
    nothing = [{**proposal, "gain": None} for proposal in proposals]
    assert texts(proposals_figure([{**edits[0], "proposals": nothing}]))


def mixed(edit: dict[str, Any]) -> dict[str, Any]:
    """An edit that prunes channel 0 of each layer, and splits channel 1, without an index."""
    proposals = [
        {
            **p,
            "index": None,
            "gain": gain,
            "copies": copies,
            "selected": p["channel"] == copies // 2,
        }
        for p in edit["proposals"]
        for copies, gain in ((0, -0.01 * p["channel"] - 0.001), (2, 0.5 + p["channel"]))
    ]
    return {**edit, "proposals": proposals}


def test_edits_are_named_after_what_they_do(edits: Events) -> None:
    prunes = [{**p, "copies": 0} for p in edits[0]["proposals"]]
    assert noun(edits) == "split"
    assert noun([{**edits[0], "proposals": prunes}]) == "prune"
    assert noun([mixed(edits[0])]) == "edit"
    assert noun([]) == "split"
    assert "edit 1: 6 of 28" in texts(proposals_figure([mixed(edits[0])]))


def test_prunes_have_their_own_colour(edits: Events) -> None:
    ranked = proposals_figure([mixed(edits[0])]).axes[0]
    colours = [patch.get_facecolor() for patch in ranked.patches]
    counts = [int((~np.isnan(patch.get_data().values)).sum()) for patch in ranked.patches]  # type: ignore[attr-defined]
    assert counts == [22, 3, 3]
    ruinous = mixed(edits[0])
    ruinous["proposals"][0]["gain"] = -1e3
    low, high = proposals_figure([ruinous]).axes[0].get_ylim()
    assert -high <= low < 0
    assert colours[2] == to_rgba(LIGHT["prune"])
    assert colours[1] != colours[2]


def test_every_channel_is_a_square_in_the_colour_of_what_becomes_of_it(edits: Events) -> None:
    figure = channels_figure([mixed(edits[0]), edits[1]])
    assert [axes.get_title() for axes in figure.axes] == ["before edit 1", "before edit 2"]
    cells: dict[Any, int] = {}
    for patch in figure.axes[0].patches:
        color = to_rgba(patch.get_facecolor(), alpha=1.0)
        codes = patch.get_path().codes
        cells[color] = cells.get(color, 0) + int((codes == MplPath.MOVETO).sum())
    kinds = {color: to_rgba(LIGHT[color]) for color in ("body", "split", "prune")}
    assert cells == {kinds["body"]: 14 - 6, kinds["split"]: 3, kinds["prune"]: 3}
    alphas = {patch.get_alpha() for patch in figure.axes[0].patches}
    assert max(alphas) == 1.0
    assert len(alphas) > 2


def test_lineage_names_layers_with_their_widths(edits: Events) -> None:
    shown = texts(lineage_figure(edits))
    for group, width in edits[0]["widths_before"].items():
        assert f"{group}: {width} → {edits[-1]['widths_after'][group]}" in shown


def test_remaining_shares_are_means_over_networks(edits: Events) -> None:
    before, after = {"a": 10, "b": 4, "head": 3}, [{"a": 5, "b": 4}, {"a": 2, "b": 1}]
    proposals = [{"group": group} for group in "ab"]
    cuts = [
        {"widths_before": before, "widths_after": {**one, "head": 3}, "proposals": proposals}
        for one in after
    ]
    axes = remaining_figure(cuts).axes[0]
    bars = [patch.get_width() for patch in axes.patches]
    assert bars == pytest.approx([1, 1, 0.35, 0.625])  # the frames, then the means
    dots = [[float(x) for x in line.get_xdata()] for line in axes.lines]
    assert dots == [[0.5, 1.0], [0.2, 0.25]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in axes.texts] == ["3.5 of 10", "2.5 of 4"]
    assert not remaining_figure(cuts[:1]).axes[0].lines
