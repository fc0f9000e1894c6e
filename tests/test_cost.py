"""Costs against formulas, against torch's own counter, and against the really edited model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

import ramify
from ramify.cost import graph_cost, model_cost
from tests.nets import SMOOTH, prepared


def test_convolutions_linears_and_norms_by_formula() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 12 * 12, 10),
    )
    cost = model_cost(net, torch.randn(1, 3, 16, 16))
    convolutions = 8 * 8 * 8 * 27 + 8 * 6 * 6 * 9 + 8 * 6 * 6 * 4 * 4
    assert cost.by_kind == {"conv": convolutions, "norm": 8 * 8 * 8, "linear": 576 * 10}
    assert cost.macs == sum(cost.by_kind.values())
    assert cost.flops == 2 * cost.macs
    assert cost.params == sum(p.numel() for p in net.parameters())


class Attention(nn.Module):
    def __init__(self, value: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, value)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x)[:, None] for layer in (self.q, self.k, self.v))
        return scaled_dot_product_attention(q, k, v)


def test_attention_is_counted_where_torch_counts_nothing_on_the_cpu() -> None:
    cost = model_cost(Attention(8), torch.randn(2, 5, 6))
    assert cost.by_kind["attention"] == 2 * 5 * 5 * (8 + 8)
    assert cost.by_kind["linear"] == 2 * 5 * 6 * (8 + 8 + 8)
    apart = model_cost(Attention(4), torch.randn(2, 5, 6))  # torch takes two matrix products here
    assert apart.macs - apart.by_kind["linear"] == 2 * 5 * 5 * (8 + 4)


@pytest.mark.parametrize("name", ["perceptron", "conv-bn-softplus", "residual", "depthwise"])
def test_torch_counts_the_same_products(name: str) -> None:
    net, batch = prepared(name)
    counter = FlopCounterMode(display=False)
    with counter:
        net(batch[0])
    cost = model_cost(net, batch[0])
    assert counter.get_total_flops() == 2 * (cost.macs - cost.by_kind.get("norm", 0))


@pytest.mark.parametrize("name", list(SMOOTH))
def test_the_price_of_an_edit_is_what_the_edited_model_costs(name: str) -> None:
    net, batch = prepared(name)
    graph = ramify.trace(net, batch[0][:1])
    edits: list[ramify.Split | ramify.Prune] = []
    for group in graph.groups:
        if group.can_split and group.can_prune:
            edits += [ramify.Split(group.name, 0, (0.5, 0.25, 0.25)), ramify.Prune(group.name, 1)]
    price = graph_cost(graph, edits)
    before = graph_cost(graph)
    edited = ramify.apply(graph, edits)
    assert price == graph_cost(edited) == model_cost(net, batch[0][:1])
    assert price != before
    assert (price - before).params == price.params - before.params
