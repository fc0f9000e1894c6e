"""Fitting a selection to a budget of totals."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import nn

import ramify
from ramify.cost import RESOURCES, CostModel, graph_cost
from ramify.latency import Latency


def chain() -> ramify.ChannelGraph:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    return ramify.trace(net, torch.randn(1, 3))


def proposed(
    graph: ramify.ChannelGraph, *edits: ramify.Split | ramify.Prune
) -> list[ramify.Proposal]:
    """Each worth less than the one before."""
    model = CostModel(graph)
    return [
        ramify.Proposal(edit, 1.0 - 0.1 * n, model.added([edit]), graph=graph)
        for n, edit in enumerate(edits)
    ]


@pytest.mark.parametrize("resource", RESOURCES)
def test_growing_takes_the_best_that_fit(resource: str) -> None:
    graph = chain()
    now = graph_cost(graph)
    edits = [ramify.Split(name, c) for c in range(4) for name in ("0", "2")]
    proposals = proposed(graph, *edits)
    everything = (graph_cost(graph, edits) - now).of(resource)
    assert ramify.fit(proposals, graph, {resource: now.of(resource) + everything}) == proposals
    for share in (0.0, 0.3, 0.6, 0.9):
        total = now.of(resource) + share * everything
        kept = ramify.fit(proposals, graph, {resource: total})
        assert graph_cost(graph, [p.edit for p in kept]).of(resource) <= total
        for p in proposals:  # what was left out did not fit when its turn came
            if p not in kept:
                first = [q for q in kept if q.value > p.value]
                edits_then = [q.edit for q in [*first, p]]
                assert graph_cost(graph, edits_then).of(resource) > total


def test_prunes_make_room_and_every_budget_counts() -> None:
    graph = chain()
    now = graph_cost(graph)
    split, prune = proposed(graph, ramify.Split("2", 0), ramify.Prune("2", 1))
    here = {"params": now.params, "macs": now.macs}
    assert ramify.fit([split], graph, here) == []
    assert ramify.fit([split, prune], graph, here) == [split, prune]
    assert ramify.fit([split], graph, {"params": now.params + 100, "macs": now.macs}) == []


def test_shrinking_takes_just_enough_of_the_prunes_that_lose_least() -> None:
    graph = chain()
    model = CostModel(graph)
    edits = [ramify.Split("2", 4), *(ramify.Prune(g, c) for c in range(3) for g in ("0", "2"))]
    proposals = proposed(graph, *edits)
    for enough in range(1, 7):
        budget = {"params": graph_cost(graph, edits[1 : 1 + enough]).params}
        assert ramify.fit(proposals, graph, budget) == proposals[1 : 1 + enough]
    assert ramify.fit(proposals, graph, {"params": 1}) == proposals[1:]  # all there are
    every = proposed(graph, *(ramify.Prune("0", c) for c in range(4)))
    assert ramify.fit(every, graph, {"params": 1}) == every[:3]
    assert model.cost() == graph_cost(graph)


def test_latency_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain()

    def measured(
        graph: ramify.ChannelGraph, edits: Sequence[ramify.Split | ramify.Prune] = ()
    ) -> Latency:
        more = [len(e.weights) - 1 if isinstance(e, ramify.Split) else -1 for e in edits]
        return Latency(10.0 + sum(more), 0.1)

    monkeypatch.setattr("ramify.select.fit.measure_edited", measured)
    grown = proposed(graph, *(ramify.Split("2", c) for c in range(5)))
    assert ramify.fit(grown, graph, {"latency": 12.5}) == grown[:2]
    assert ramify.fit(grown, graph, {"latency": 10.0}) == []
    room = grown[1].cost.params + graph_cost(graph).params
    assert ramify.fit(grown, graph, {"latency": 12.5, "params": room}) == grown[:1]
    gone = proposed(graph, *(ramify.Prune("2", c) for c in range(4)))
    assert ramify.fit(gone, graph, {"latency": 8.0}) == gone[:2]


def test_what_a_budget_may_be() -> None:
    graph = chain()
    with pytest.raises(ramify.RamifyError, match="but got 'weights'"):
        ramify.fit([], graph, {"weights": 5})
    for total in (0, -1, float("nan")):
        with pytest.raises(ramify.RamifyError, match="must be finite and above 0"):
            ramify.fit([], graph, {"macs": total})


def test_proposals_for_an_earlier_trace_are_refused() -> None:
    graph = chain()
    made = proposed(graph, *(ramify.Prune("0", c) for c in range(3)))
    edited = ramify.apply(graph, made[:1])
    with pytest.raises(ramify.RamifyError, match="different traces"):
        ramify.fit(made, edited, {"params": 20})


def test_proposals_serve_a_copy_of_the_network_too() -> None:
    graph = chain()
    made = proposed(graph, *(ramify.Prune("0", c) for c in range(3)))
    copied = ramify.trace(copy.deepcopy(graph.model), torch.randn(1, 3))
    budget = {"params": graph_cost(graph).params - 1}
    expected = [one.edit for one in ramify.fit(made, graph, budget)]
    ramify.apply(graph, made[:1])
    assert [one.edit for one in ramify.fit(made, copied, budget)] == expected != []
