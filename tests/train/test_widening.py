"""Widening by one factor: the largest that fits, everywhere the same, with the optimizer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import ramify
from ramify.cost import graph_cost
from ramify.errors import RamifyError
from ramify.models import build


def network() -> tuple[nn.Module, ramify.ChannelGraph]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 20), nn.ReLU(),
        nn.Linear(20, 2),
    )  # fmt: skip
    return net, ramify.trace(net, torch.randn(4, 3))


def widths(graph: ramify.ChannelGraph) -> list[int]:
    return [group.width for group in graph.groups if group.can_split]


def params(first: int, second: int) -> int:
    return 4 * first + 2 * first + (first + 1) * second + 2 * (second + 1)


@pytest.mark.parametrize("factor", [1.0, 1.3, 2.0, 3.7])
def test_the_largest_factor_that_fits(factor: float) -> None:
    net, graph = network()
    first, second = (math.floor(factor * width + 1e-9) for width in (10, 20))
    budget = params(first, second)
    graph = ramify.widen(graph, {"params": budget})
    assert widths(graph) == [first, second]
    assert sum(p.numel() for p in net.parameters()) == budget
    _, graph = network()
    graph = ramify.widen(graph, {"params": params(first, second + 1) - 1})
    assert widths(graph) == [first, second]  # one parameter short of a channel more


def test_every_resource_of_the_budget_is_kept() -> None:
    model = build("resnet20", dataset_shape=(3, 8, 8), classes=4, width=3)
    graph = ramify.trace(model, torch.randn(1, 3, 8, 8))
    before, now = graph_cost(graph), widths(graph)
    graph = ramify.widen(graph, {"params": 3 * before.params, "macs": 2 * before.macs})
    after = graph_cost(graph)
    assert 1.5 * before.macs < after.macs <= 2 * before.macs
    assert after.params <= 3 * before.params
    ratios = [new / old for new, old in zip(widths(graph), now, strict=True)]
    assert all(
        abs(ratio * old - max(ratios) * old) <= 1 for ratio, old in zip(ratios, now, strict=True)
    )


def test_outputs_move_little_and_the_optimizer_goes_along() -> None:
    net, graph = network()
    x = torch.randn(16, 3)
    optimizer = torch.optim.Adam(net.parameters())
    net(x).square().sum().backward()
    optimizer.step()
    before = net.eval()(x)
    graph = ramify.widen(graph, {"params": 900}, step=1e-4, seed=3, optimizer=optimizer)
    torch.testing.assert_close(net(x), before, atol=1e-3, rtol=1e-3)
    for parameter in net.parameters():
        assert optimizer.state[parameter]["exp_avg"].shape == parameter.shape
    weight = net.get_parameter("0.weight").detach()
    assert torch.pdist(weight).min() > 0  # no two copies are alike


def test_the_same_seed_draws_the_same() -> None:
    found = []
    for seed in (1, 1, 2):
        net, graph = network()
        ramify.widen(graph, {"params": 600}, seed=seed)
        found.append(net.get_parameter("0.weight"))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_fits_no_channel_more_stays() -> None:
    _, graph = network()
    assert ramify.widen(graph, {"params": params(10, 20)}) is graph


@pytest.mark.parametrize(
    "budget, said",
    [
        ({}, "a budget to widen to must be one of params, macs, flops, energy, but got none"),
        ({"latency": 3.0}, "a budget to widen to must be one of .* but got latency"),
        ({"params": 10}, "the model has 322 params, over the budget of 10: prune it first"),
        ({"params": math.nan}, "the budget of params must be finite, but got nan"),
        ({"params": math.inf}, "the budget of params must be finite, but got inf"),
    ],
)
def test_what_is_refused(budget: dict[str, Any], said: str) -> None:
    _, graph = network()
    with pytest.raises(RamifyError, match=said):
        ramify.widen(graph, budget)


def test_a_budget_that_bounds_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ramify.train.widening.MOST", 8.0)
    _, graph = network()
    with pytest.raises(RamifyError, match="wider layers do not cost more params, so that the bu"):
        ramify.widen(graph, {"params": 1e6})
