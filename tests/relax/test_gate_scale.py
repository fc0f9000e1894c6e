"""Cutting by gates: which channels each rule takes, and what is left."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ramify
from ramify.relax import GateScale, remaining


def searched() -> tuple[nn.Module, ramify.ChannelGraph, dict[str, torch.Tensor]]:
    model = nn.Sequential(
        nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 9), nn.ReLU(),
        nn.Linear(9, 2),
    ).double()  # fmt: skip
    graph = ramify.trace(model, torch.randn(3, 4, dtype=torch.float64))
    gates = ramify.gate(graph, ["2", "0"])  # the third group is not gated
    with torch.no_grad():
        for alpha in gates:
            alpha.copy_(torch.randn(len(alpha)))
    return model, graph, ramify.fold(model)


def channels(chosen: list[ramify.Proposal]) -> set[tuple[str, object]]:
    return {(proposal.edit.group, proposal.edit.channel) for proposal in chosen}


def test_smallest_gates_go_first_and_what_is_not_gated_stays() -> None:
    _, graph, scores = searched()
    proposals = GateScale(scores).propose(graph)
    assert len(proposals) == 16
    assert [p.score for p in proposals] == sorted((p.score for p in proposals), reverse=True)  # type: ignore[type-var]
    for proposal in proposals:
        assert proposal.score == -abs(float(scores[proposal.edit.group][proposal.edit.channel]))
        assert proposal.cost.params < 0


def test_a_common_factor_of_a_group_can_be_left_out() -> None:
    _, graph, scores = searched()
    scaled = scores | {"0": 7 * scores["0"]}
    relative = [GateScale(s, relative=True).propose(graph) for s in (scores, scaled)]
    assert [p.edit for p in relative[0]] == [p.edit for p in relative[1]]
    assert [p.score for p in relative[0]] == pytest.approx([p.score for p in relative[1]])
    raw = [GateScale(s).propose(graph) for s in (scores, scaled)]
    assert [p.edit for p in raw[0]] != [p.edit for p in raw[1]]


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.6, 0.8])
def test_a_pruning_ratio_counts_all_gated_channels(ratio: float) -> None:
    _, graph, scores = searched()
    proposals = GateScale(scores).propose(graph)
    every = sorted((float(a.abs()), g, n) for g, own in scores.items() for n, a in enumerate(own))
    count = math.ceil(ratio * 16)
    assert channels(ramify.TopFraction(ratio).select(proposals)) == {
        (group, channel) for _, group, channel in every[:count]
    }
    layers = channels(ramify.TopFraction(ratio, per_group=True).select(proposals))
    expected = set()
    for group, own in scores.items():
        smallest = own.abs().argsort()[: math.ceil(ratio * len(own))].tolist()
        expected |= {(group, channel) for channel in smallest}
    assert layers == expected


def test_no_layer_is_emptied_and_the_ratio_is_kept() -> None:
    """Where one layer's gates are all smaller than the other's, one of them stays."""
    _, graph, scores = searched()
    scores = {"0": 1.0 + scores["0"].abs(), "2": scores["2"].abs().clamp(max=1.0)}
    proposals = GateScale(scores).propose(graph)
    chosen = ramify.TopFraction(0.5).select(proposals)
    assert len(chosen) == 8
    small = ramify.apply(graph, [p.edit for p in chosen])
    assert (small["0"].width, small["2"].width, small["4"].width) == (7, 1, 9)
    assert remaining(scores, small) == {"0": 0.7, "2": 1 / 6}
    for rule in (ramify.TopFraction(1.0), ramify.Threshold(value=-1e9)):
        assert len(rule.select(proposals)) == 14


@pytest.mark.parametrize("bound", [0.0, 0.3, 1.0])
def test_a_learned_ratio_takes_what_is_at_most_the_threshold(bound: float) -> None:
    _, graph, scores = searched()
    scores["0"][:3] = torch.tensor([0.0, -0.3, 0.3])
    proposals = GateScale(scores).propose(graph)
    chosen = channels(ramify.Threshold(value=-bound).select(proposals))
    small = {(g, n) for g, own in scores.items() for n, a in enumerate(own) if abs(a) <= bound}
    assert chosen == small
    assert len(chosen) >= 1


def test_budgets() -> None:
    _, graph, scores = searched()
    proposals = GateScale(scores).propose(graph)
    before = ramify.cost.graph_cost(graph)
    every = ramify.TopFraction(1.0).select(proposals)
    for resource, total in (("params", 0.6 * before.params), ("macs", 0.5 * before.macs)):
        chosen = ramify.fit(every, graph, {resource: total})
        after = ramify.cost.graph_cost(graph, [p.edit for p in chosen])
        assert after.of(resource) <= total
    rule = ramify.Knapsack(params=-60)
    chosen = rule.select(proposals)
    after = ramify.cost.graph_cost(graph, [p.edit for p in chosen])
    assert after.params <= before.params - 60
    least = min(chosen, key=lambda p: p.value)  # no channel goes that could have stayed
    rest = [p.edit for p in chosen if p is not least]
    assert ramify.cost.graph_cost(graph, rest).params > before.params - 60


def test_gates_of_other_widths_are_refused() -> None:
    _, graph, scores = searched()
    graph = ramify.apply(graph, [ramify.Prune("0", 1)])
    with pytest.raises(ramify.RamifyError, match=r"the gates of '0' have shape \(10,\).* 9 chan"):
        GateScale(scores).propose(graph)
    with pytest.raises(ramify.RamifyError, match="'7'"):
        GateScale({"7": torch.ones(3)}).propose(graph)
