"""Selection rules."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import ramify
from ramify.cost import Cost


def proposals(*indices: float) -> list[ramify.Proposal]:
    return [
        ramify.Proposal(ramify.Split("g", n), -index / 2, Cost(1, 1), index)
        for n, index in enumerate(indices)
    ]


def channels(chosen: list[ramify.Proposal]) -> list[int]:
    return [proposal.edit.channel for proposal in chosen]


def test_top_fraction_counts_all_channels_and_takes_only_gains() -> None:
    offered = proposals(0.5, -1.0, -3.0, 2.0, -2.0, 0.1, 0.2, 0.3, 0.4, 0.6)
    assert channels(ramify.TopFraction(0.2).select(offered)) == [2, 4]
    assert channels(ramify.TopFraction(0.21).select(offered)) == [2, 4, 1]
    assert channels(ramify.TopFraction(1.0).select(offered)) == [2, 4, 1]
    assert ramify.TopFraction(0.5).select([]) == []


def graph_of(*widths: int) -> ramify.ChannelGraph:
    sizes = [3, *widths, 2]
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return ramify.trace(nn.Sequential(*layers), torch.randn(1, 3))


@pytest.mark.parametrize(
    "tilt, gone", [(0.0, [4, 8, 4, 2]), (1.0, [0, 6, 6, 4]), (-1.0, [8, 11, 3, 0])]
)
def test_the_share_of_each_layer_falls_or_rises_with_its_place(
    tilt: float, gone: list[int]
) -> None:
    graph = graph_of(10, 20, 10, 5)
    offered = ramify.L1().propose(graph)
    chosen = ramify.TopFraction(0.4, per_group=True, tilt=tilt).select(offered)
    names = [group.name for group in graph.groups if group.can_prune]
    assert [sum(p.edit.group == name for p in chosen) for name in names] == gone
    first = [p.edit.channel for p in offered if p.edit.group == names[1]]  # by L1 within a layer
    assert [p.edit.channel for p in chosen if p.edit.group == names[1]] == first[: gone[1]]


def test_a_tilted_share_leaves_a_channel_and_one_layer_as_it_is() -> None:
    graph = graph_of(10, 4)
    chosen = ramify.TopFraction(0.9, per_group=True, tilt=1.0).select(ramify.L1().propose(graph))
    assert [p.edit.group for p in chosen] == ["1"] * 3
    graph = graph_of(10)
    chosen = ramify.TopFraction(0.4, per_group=True, tilt=1.0).select(ramify.L1().propose(graph))
    assert len(chosen) == 4


@pytest.mark.parametrize("given", [{"tilt": 1.5, "per_group": True}, {"tilt": 0.5}])
def test_a_tilt_out_of_range_or_without_groups_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ramify.RamifyError, match="tilt must be from -1 to 1 and needs per_group"):
        ramify.TopFraction(0.5, **given)


def test_threshold_takes_at_most_m_below_lambda() -> None:
    offered = proposals(-0.5, -3.0, 1.0, -2.0)
    assert channels(ramify.Threshold().select(offered)) == [1, 3, 0]
    assert channels(ramify.Threshold(most=2).select(offered)) == [1, 3]
    assert channels(ramify.Threshold(index=-1.0).select(offered)) == [1, 3]
    assert ramify.Threshold(index=-4.0).select(offered) == []


def test_settings_are_checked() -> None:
    with pytest.raises(ramify.RamifyError, match="above 0 and at most 1"):
        ramify.TopFraction(0.0)
    with pytest.raises(ramify.RamifyError, match="at least 1"):
        ramify.Threshold(most=0)


def offer(group: str, channel: int, gain: float, params: int, copies: int = 2) -> ramify.Proposal:
    """A split, or a prune with 0 copies."""
    split = ramify.Split(group, channel, (1 / copies,) * copies) if copies else None
    return ramify.Proposal(split or ramify.Prune(group, channel), gain, Cost(params, 10 * params))


def test_top_fraction_of_each_group() -> None:
    offered = [offer("a", n, 10.0 + n, 1) for n in range(10)]
    offered += [offer("b", n, 1.0 + n, 1) for n in range(5)]
    assert channels(ramify.TopFraction(0.2).select(offered)) == [9, 8, 7]
    chosen = ramify.TopFraction(0.2, per_group=True).select(offered)
    assert [(p.edit.group, p.edit.channel) for p in chosen] == [("a", 9), ("a", 8), ("b", 4)]


def test_the_best_fraction_may_be_of_gains_for_a_resource() -> None:
    offered = [offer("a", 0, 0.5, 100), offer("a", 1, 0.4, 20), offer("b", 0, 0.9, 300)]
    offered += [offer("b", 1, -0.1, 10), offer("c", 0, 0.01, -5, copies=0)]
    offered += [offer("c", 1, -0.2, -5, copies=0), offer("a", 1, 0.6, 40, copies=3)]

    def taken(fraction: float, per: str | None) -> set[float]:
        return {p.gain for p in ramify.TopFraction(fraction, per=per).select(offered)}

    assert taken(0.3, None) == {0.9, 0.6}
    for per in ramify.cost.RESOURCES:
        assert taken(0.3, per) == {0.01, 0.4}  # what frees some, then 0.02 each
        assert taken(0.5, per) == {0.01, 0.4, 0.5}
        assert taken(1.0, per) == {0.01, 0.4, 0.5, 0.9}
    with pytest.raises(
        ramify.RamifyError, match="per must be one of params, macs, .* got 'latency'"
    ):
        ramify.TopFraction(0.3, per="latency")
    scored = [replace(offered[0], gain=0.0, score=1.0)]
    with pytest.raises(ramify.RamifyError, match="channel 0 of 'a' has a score and no gain: leave"):
        ramify.TopFraction(0.3, per="params").select(scored)


def test_a_share_is_rounded_up_but_not_by_what_floats_lack() -> None:
    offered = [offer("a", n, 1.0 + n, 1) for n in range(100)]
    assert 0.07 * 100 > 7
    assert len(ramify.TopFraction(0.07).select(offered)) == 7
    assert len(ramify.TopFraction(0.071).select(offered)) == 8


def test_the_trade_off_weighs_gain_against_cost() -> None:
    pays, costs_more = offer("a", 0, 0.5, 100), offer("a", 1, 0.5, 600)
    frees, loses = offer("a", 2, -0.05, -100, copies=0), offer("a", 3, -0.5, -100, copies=0)
    offered = [pays, costs_more, frees, loses]
    every = ramify.TradeOff(params=1e-3, per_group=1.0)
    assert every.select(offered) == [pays, frees]  # worth 0.4 and 0.05
    assert ramify.TradeOff(per_group=1.0).select(offered) == [pays, costs_more]
    for price in ({"macs": 1e-4}, {"flops": 0.5e-4}, {"energy": 1e-4}):
        assert ramify.TradeOff(per_group=1.0, **price).select(offered) == [pays, frees]
    assert ramify.TradeOff(params=1e-3, macs=1e-4, per_group=1.0).select(offered) == [pays, frees]
    assert ramify.TradeOff(params=3e-3, macs=3e-4, per_group=1.0).select(offered) == [frees, loses]


def test_the_trade_off_takes_a_share_of_those_that_pay_in_each_group() -> None:
    offered = [offer("a", n, 7.0 - n, 1) for n in range(16)]
    offered += [offer("b", n, 0.5, 1 + n) for n in range(2)]
    chosen = ramify.TradeOff(params=0.1, per_group=0.3).select(offered)
    assert [(p.edit.group, p.edit.channel) for p in chosen] == [
        ("a", 0),
        ("a", 1),
        ("a", 2),  # 7 pay, 0.3 of them are 2.1
        ("b", 0),
    ]


RULES = [
    ramify.TopFraction(1.0),
    ramify.TopFraction(1.0, per_group=True),
    ramify.Threshold(),
    ramify.TradeOff(params=0.1, per_group=1.0),
    ramify.Knapsack(params=100),
    ramify.Knapsack(params=100, exact=0),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_no_rule_edits_a_channel_twice_or_empties_a_group(rule: ramify.select.Rule) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    graph = ramify.trace(net, torch.randn(2, 3))
    names = ["0", "0.weight", "0.bias", "0"]  # of one group
    offered = [offer(names[n], n, 1.0 + n, -4, copies=0) for n in range(4)]
    offered += [offer("2.weight", n, 2.0, 6, copies=m) for n in range(2) for m in (2, 3)]
    offered += [offer("2", 1, 3.0, -4, copies=0)]
    for given in (graph, None):
        if given is None:
            offered = [replace(p, edit=replace(p.edit, group=p.edit.group[0])) for p in offered]
        chosen = rule.select([replace(p, graph=given) for p in offered])
        edits = [(p.edit.group[0], p.edit.channel, type(p.edit).__name__) for p in chosen]
        assert ("2", 1, "Prune") in edits
        assert sorted(e for e in edits if e[0] == "0") == [("0", n, "Prune") for n in (1, 2, 3)]
        assert sorted(e for e in edits if e[0] == "2") == [("2", 0, "Split"), ("2", 1, "Prune")]
    ramify.apply(graph, [p.edit for p in ramify.TopFraction(1.0).select(offered)])
    assert graph.model[0].weight.shape == (1, 3)


def test_scores_rank_where_no_gain_is_known() -> None:
    cost = Cost(-1, -1)
    offered = [
        ramify.Proposal(ramify.Prune("g", n), 0.0, cost, score=s)
        for n, s in enumerate([-3.0, -1.0, -2.0])
    ]
    assert channels(ramify.TopFraction(0.5).select(offered)) == [1, 2]
    assert channels(ramify.TopFraction(1.0).select(offered)) == [1, 2]
    assert channels(ramify.TradeOff(params=2.5, per_group=1.0).select(offered)) == [1, 2]
    assert channels(ramify.Knapsack(params=-1).select(offered)) == [1]


def test_what_rules_refuse() -> None:
    for bad in (
        lambda: ramify.TradeOff(per_group=0.0),
        lambda: ramify.TradeOff(per_group=1.1),
        lambda: ramify.TopFraction(0.5).select([offer("a", 0, float("nan"), 1)]),
        lambda: ramify.TradeOff(params=-1.0),
        lambda: ramify.TradeOff(energy=float("inf")),
        lambda: ramify.Knapsack(),
        lambda: ramify.Knapsack(macs=float("nan")),
    ):
        with pytest.raises(
            ramify.RamifyError, match="at most 1|is nan|value nan|at least 0|budget"
        ):
            bad()
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    graphs = [ramify.trace(net, torch.randn(2, 3)) for _ in range(2)]
    with pytest.raises(ramify.RamifyError, match="different traces"):
        ramify.Threshold().select([replace(offer("0", n, 1.0, 1), graph=graphs[n]) for n in (0, 1)])


def test_fit_takes_no_more_scored_prunes_than_the_budget_asks_for() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(8, 4)
    graph = ramify.trace(net, x)
    proposals = ramify.L1().propose(graph, lambda model, batch: model(batch).sum(1), [x])
    now = sum(parameter.numel() for parameter in net.parameters())
    assert ramify.fit(proposals, graph, {"params": now}) == []
    assert len(ramify.fit(proposals, graph, {"params": now - 1})) == 1
