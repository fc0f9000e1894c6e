"""Phases, cuts and layers of a run that cuts are those that its events say."""

import math
from typing import Any

import pytest

from ramify.report.cut_events import (
    Layer,
    Phase,
    RefittedLayer,
    by_seed,
    curve,
    in_loss,
    layers_of,
    offsets,
    phases,
    refitted_layers,
    sensitivities,
    sizes,
)
from tests.report.cut_runs import FULL, SMALL, cut_event, cut_run, sensitivity_event

FULL_NETWORK, SEARCH = Phase("full network", 0, 20), Phase("search", 20, 40)


@pytest.mark.parametrize(
    "run, spans, marks",
    [
        ({}, [FULL_NETWORK, Phase("fine-tuning", 20, 40)], [20]),
        ({"given": True}, [Phase("fine-tuning", 0, 20)], [0]),
        ({"search": True}, [FULL_NETWORK, SEARCH, Phase("fine-tuning", 40, 60)], [40]),
        ({"search": True, "old": True}, [FULL_NETWORK, SEARCH, Phase("fine-tuning", 40, 60)], [40]),
        (
            {"rounds": 2},
            [FULL_NETWORK, Phase("fine-tuning 1", 20, 40), Phase("fine-tuning 2", 40, 60)],
            [20, 40],
        ),
    ],
)
def test_phases_follow_each_other(
    run: dict[str, Any], spans: list[Phase], marks: list[int]
) -> None:
    assert phases(by_seed(cut_run(**run))) == (spans, marks)


def test_phases_wait_for_the_longest_seed() -> None:
    seeds = by_seed([*cut_run(0, given=True), *cut_run(1)])
    assert list(seeds) == [0, 1]
    assert offsets(seeds) == {"baseline": 0, "scored": 20, "pruned": 20, "": 40}
    assert phases(by_seed([])) == ([], [])


def test_networks_that_were_retrained_are_no_phase() -> None:
    again = {"event": "epoch", "job": "retrained-0", "arm": "retrained", "step": 99}
    events = cut_run()
    assert by_seed([*events, again]) == {0: events}


def test_the_curve_falls_at_the_cut_and_ends_at_the_result() -> None:
    seeds = by_seed(cut_run())
    assert curve(seeds[0], offsets(seeds)) == [
        *((10, 0.95), (20, 0.95)),
        *((20, 0.95), (20, 0.9)),
        *((30, 0.92), (40, 0.92), (40, 0.93)),
    ]
    seeds = by_seed(cut_run(given=True))
    assert curve(seeds[0], offsets(seeds))[:3] == [(0, 0.95), (0, 0.95), (0, 0.9)]


def test_a_cut_of_an_earlier_version_is_no_way_back() -> None:
    """The result of the search repeats what was before the cut, and stands behind it."""
    seeds = by_seed(cut_run(search=True, old=True))
    late = [point for point in curve(seeds[0], offsets(seeds)) if point[0] >= 40]
    assert late == [(40, 0.94), (40, 0.95), (40, 0.9), (50, 0.92), (60, 0.92), (60, 0.93)]


def test_sizes_are_shares_of_the_full_network() -> None:
    seeds = by_seed(cut_run(rounds=2))
    full, one, two = (sum(widths.values()) for widths in (FULL, *SMALL))
    stairs = [(0, 1.0), (20, one / full), (40, two / full), (60, two / full)]
    for unit in ("params", "macs"):
        assert sizes(seeds[0], offsets(seeds), unit) == stairs
    bare = {key: value for key, value in cut_event(FULL, SMALL[0]).items() if key != "macs_before"}
    assert sizes([{**bare, "job": "pruned-0", "step": 0}], offsets(seeds), "macs") == []


def test_layers_have_the_cost_of_the_last_that_went_and_of_the_next() -> None:
    cut = cut_event(FULL, SMALL[0])
    conv1 = Layer("conv1", 8, 4, floor=2, taken=0.004, left=0.005)
    conv2 = Layer("conv2", 12, 9, floor=2, taken=0.006, left=0.008)
    assert layers_of([cut]) == [conv1, conv2]
    assert in_loss([cut])


def test_layers_of_several_cuts_have_the_costs_of_the_last() -> None:
    cuts = [cut_event(FULL, SMALL[0]), cut_event(*SMALL)]
    conv1 = Layer("conv1", 8, 2, floor=2, taken=0.002, left=0.003)
    assert layers_of(cuts) == [conv1, Layer("conv2", 12, 9, floor=2, taken=None, left=0.002)]


def test_layers_of_a_method_that_only_scores() -> None:
    cut = cut_event(FULL, SMALL[0])
    del cut["floors"]
    for proposal in cut["proposals"]:
        proposal |= {"gain": 0.0, "score": -3.0 if proposal["channel"] else math.nan}
    assert layers_of([cut])[0] == Layer("conv1", 8, 4, floor=None, taken=3.0, left=3.0)
    assert not in_loss([cut])


def test_layers_that_lost_nothing_were_not_refitted() -> None:
    cut = cut_event(FULL, SMALL[0])
    assert refitted_layers(cut) == [
        RefittedLayer("conv2", 0.01, 0.4, 0.02),
        RefittedLayer("head", 0.1, 0.1, 0.05),
    ]
    cut["refitted"][1]["strength"] = math.nan  # as runs of some days wrote it
    assert [reader.name for reader in refitted_layers(cut)] == ["head"]
    assert refitted_layers({}) == []


def test_sensitivities_are_one_for_each_network() -> None:
    first, second = sensitivity_event(0), sensitivity_event(1)
    again = {**first, "groups": {"conv1": [[0.9, 1.0]]}}
    assert sensitivities([*cut_run(), first, second, again]) == [first, second]
    assert sensitivities([{**first, "groups": {}}]) == []
