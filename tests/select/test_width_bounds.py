"""Floors and ceilings: any selection among what is allowed keeps to them."""

from __future__ import annotations

from collections import Counter
from itertools import chain, combinations
from typing import Any

import pytest
import torch
from torch import nn

import ramify
from ramify.cost import CostModel, growth
from ramify.select.width_bounds import WidthBounds


def traced() -> ramify.ChannelGraph:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    return ramify.trace(nn.ModuleDict({"body": layers})["body"], torch.randn(2, 3))


def offers(
    graph: ramify.ChannelGraph, copies: tuple[int, ...], seed: int, scored: bool = False
) -> list[ramify.Proposal]:
    """For each channel a split into each number of copies, 0 for a prune, of random gains."""
    generator = torch.Generator().manual_seed(seed)
    prices, found = CostModel(graph), []
    for group in graph.groups[:2]:  # the third is what the network puts out
        for channel in range(group.width):
            for count in copies:
                edit: Any = ramify.Prune(group.name, channel)
                if count:
                    edit = ramify.Split(group.name, channel, (1 / count,) * count)
                value = torch.randn((), generator=generator).item() + 0.3 * count
                gain, score = (0.0, value) if scored else (value, None)
                cost = prices.added([edit])
                found.append(ramify.Proposal(edit, gain, cost, score=score, graph=graph))
    return found


@pytest.mark.parametrize("copies", [(2,), (2, 3, 4), (0,), (0, 2), (0, 3)])
@pytest.mark.parametrize("scored", [False, True])
def test_every_selection_of_what_is_allowed_keeps_to_the_bounds(
    copies: tuple[int, ...], scored: bool
) -> None:
    graph = traced()
    bounds = WidthBounds(keep={"0": 2, "2": 2}, ceiling={"0": 6, "2": 5})
    for seed in range(3):
        allowed = bounds.allowed(graph, offers(graph, copies, seed, scored))
        assert allowed
        for name, floor, ceiling in (("0", 2, 6), ("2", 2, 5)):
            by_channel: dict[Any, list[int]] = {}
            for proposal in allowed:
                if proposal.edit.group == name:
                    [change] = growth([proposal.edit]).values()
                    by_channel.setdefault(proposal.edit.channel, []).append(change)
            width = graph[name].width
            assert width + sum(max(0, *own) for own in by_channel.values()) <= ceiling
            assert width + sum(min(0, *own) for own in by_channel.values()) >= floor


def test_a_ceiling_leaves_what_is_worth_most() -> None:
    """Against all subsets of one edit a channel that keep to it."""
    graph = traced()
    for seed in range(5):
        given = offers(graph, (2, 3, 4), seed)
        own = [p for p in given if p.edit.group == "0" and p.gain > 0]
        allowed = WidthBounds(ceiling={"0": 7}).allowed(graph, given)
        every = chain.from_iterable(combinations(own, count) for count in range(4))
        one_each = [s for s in every if len({p.edit.channel for p in s}) == len(s)]
        within = [s for s in one_each if sum(len(p.edit.weights) - 1 for p in s) == 3]
        best = max(within, key=lambda s: sum(p.gain for p in s))
        assert set(map(id, best)) <= set(map(id, allowed))
        # Schemes of fewer copies stay for a rule to choose; other groups are not touched.
        most = {p.edit.channel: len(p.edit.weights) for p in best}
        wanted = [p for p in own if len(p.edit.weights) <= most.get(p.edit.channel, 0)]
        assert [p for p in allowed if p.edit.group == "0"] == wanted
        assert [p for p in allowed if p.edit.group == "2"] == [
            p for p in given if p.edit.group == "2"
        ]


def test_a_floor_leaves_the_prunes_that_cost_least() -> None:
    graph = traced()
    given = offers(graph, (0,), 1)
    allowed = WidthBounds(keep=2).allowed(graph, given)
    assert Counter(p.edit.group for p in allowed) == {"0": 2, "2": 1}
    for name, count in (("0", 2), ("2", 1)):
        gains = sorted((p.gain for p in given if p.edit.group == name), reverse=True)
        kept = sorted((p.gain for p in allowed if p.edit.group == name), reverse=True)
        assert kept == gains[:count]


def test_a_network_outside_of_its_bounds_goes_no_further() -> None:
    graph = traced()
    allowed = WidthBounds(keep=5, ceiling={"*": 5, "0": 9}).allowed(graph, offers(graph, (0,), 0))
    assert allowed == []
    allowed = WidthBounds(ceiling=2).allowed(graph, offers(graph, (0, 2), 0))
    assert {type(p.edit) for p in allowed} == {ramify.Prune}


def test_names_patterns_and_the_tightest_of_several() -> None:
    graph = traced()
    bounds = WidthBounds(keep={"0.weight": 2, "*": 1}, ceiling={"*": 8, "2": 6, "2.bias": 9})
    assert bounds.floors_and_ceilings(graph) == ({"0": 2, "2": 1}, {"0": 8, "2": 6})
    assert WidthBounds().floors_and_ceilings(graph) == ({}, {})
    given = offers(graph, (2,), 0)
    assert WidthBounds().allowed(graph, given) == given
    assert WidthBounds().of_groups(graph, given) == given


def test_only_the_proposals_of_groups_that_may_change_are_left() -> None:
    graph = traced()
    given = offers(graph, (2,), 0)
    for groups in ("2", ["2"], ("2.bias",), ["[2-9]"]):
        bounds = WidthBounds(groups=groups)
        assert bounds.changeable(graph) == {"2"}
        left = bounds.of_groups(graph, given)
        assert left == [proposal for proposal in given if proposal.edit.group == "2"] != []
    assert bounds.plain() == {"groups": ["[2-9]"]}
    assert WidthBounds(groups=["0", "2"]).of_groups(graph, given) == given


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"ceiling": 0}, "ceiling must be a whole number of channels of at least 1, .* got 0"),
        ({"keep": 0.5}, "keep must be a whole number .* got 0.5"),
        ({"ceiling": {"0": True}}, "got True"),
        ({"ceiling": {"layer1*": 3}}, "ceiling: no group of channels matches 'layer1\\*'; .* '0'"),
        ({"keep": {"4": 3}}, "keep: the channels of '4' can neither be split nor pruned: "),
        ({"keep": {"1x": 3}}, "no group, module or parameter '1x': the nearest are"),
        ({"groups": ["2", "layer1*"]}, "groups: no group of channels matches 'layer1\\*'; .* '0'"),
        ({"groups": ["4"]}, "groups: the channels of '4' can neither be split nor pruned: "),
        ({"groups": [2]}, "`groups` must be a list of names or patterns of groups, but holds 2"),
        ({"keep": {"0": 4}, "ceiling": 3}, "'0' is to keep 4 channels and may have no more than 3"),
    ],
)
def test_what_is_no_bound_is_refused(bounds: dict[str, Any], said: str) -> None:
    with pytest.raises(ramify.RamifyError, match=said):
        WidthBounds(**bounds).floors_and_ceilings(traced())
