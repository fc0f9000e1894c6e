"""Costs against formulas, against torch's own counter, and against the really edited model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

import ramify
from ramify.cost import RESOURCES, Cost, CostModel, graph_cost, model_cost
from tests.block_nets import made
from tests.nets import SMOOTH, prepared


class Dense(nn.Module):
    """Joined channels, read again and again; a flattened map feeds a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.c, self.d = nn.Conv2d(9, 6, 1), nn.ConvTranspose2d(15, 4, 2, stride=2)
        self.fc = nn.Linear(4 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.cat([x, torch.relu(self.b(x))], 1)
        x = torch.cat([x, torch.relu(self.c(x))], 1)
        return self.fc(self.d(x).flatten(1))


MORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (Dense, (3, 4, 4)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), (5, 8)),
    "attention": (lambda: nn.Sequential(Attention(8), nn.Flatten(), nn.Linear(40, 2)), (5, 6)),
}


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


@pytest.mark.parametrize("name", [*SMOOTH, *MORE])
def test_the_polynomials_give_what_the_tape_gives(name: str) -> None:
    if name in MORE:
        build, shape = MORE[name]
        graph = ramify.trace(build(), torch.randn(2, *shape))
    else:
        net, batch = prepared(name)
        graph = ramify.trace(net, batch[0][:2])
    model = CostModel(graph)
    assert model.cost() == graph_cost(graph)
    assert model.cost().by_kind == graph_cost(graph).by_kind
    edits: list[ramify.Split | ramify.Prune] = []
    for number, group in enumerate(graph.groups):
        if group.can_split:
            copies = 2 + number % 3
            edits.append(ramify.Split(group.name, 0, (1 / copies,) * copies))
        if group.can_prune and group.width > 1:
            edits += [ramify.Prune(group.producers[0], 1)][: number % 2]
    assert edits
    added = graph_cost(graph, edits) - graph_cost(graph)
    assert model.added(edits) == added
    assert model.added(edits).by_kind == added.by_kind
    for edit in edits:
        assert model.added([edit]) == graph_cost(graph, [edit]) - graph_cost(graph)


@pytest.mark.parametrize("resource", RESOURCES)
def test_tangents_are_derivatives_by_the_logarithms_of_the_widths(resource: str) -> None:
    net, batch = prepared("residual")
    model = CostModel(ramify.trace(net, batch[0][:1]))
    widths = model.widths * 10**6  # so wide that a step of one channel is a small one
    amount, slopes = model.tangent(resource, widths)
    assert amount == model.cost(widths).of(resource)
    for number, width in enumerate(widths):
        step = np.eye(len(widths), dtype=np.int64)[number]
        more, less = (model.cost(widths + s * step).of(resource) for s in (1, -1))
        assert slopes[number] == pytest.approx((more - less) / 2 * width, rel=1e-6)


def test_energy_is_that_of_convolutions_and_linear_layers() -> None:
    height, inputs, pixels = 3, 6, 8 * 8
    net = nn.Sequential(
        nn.Conv2d(inputs, 5, height, padding=1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 5, 3, padding=1, groups=5, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 7, 1, bias=False),
    ).eval()
    graph = ramify.trace(net, torch.randn(1, inputs, 8, 8))
    price = graph_cost(graph, [ramify.Split("0", 0)]) - graph_cost(graph)
    assert price.energy == height**2 * inputs * pixels + 9 * pixels + 7 * pixels
    assert price.macs == price.energy + 2 * pixels  # both norms
    assert [price.of(name) for name in RESOURCES] == [
        price.params,
        price.macs,
        price.flops,
        price.energy,
    ]
    assert Cost(3, 5).energy == 5  # without the parts, all of it


def test_two_widths_at_a_time_cost_what_the_whole_shape_costs() -> None:
    graph = ramify.trace(Dense(), torch.randn(1, 3, 4, 4))
    model, draw = CostModel(graph), np.random.default_rng(0)
    for resource in RESOURCES:
        for _ in range(5):
            first, second = draw.choice(len(model.names), size=2, replace=False).tolist()
            widths = draw.integers(1, 9, size=len(model.names))
            table = model.between(resource, widths, first, second)
            widths[[first, second]] = draw.integers(1, 9, size=2)
            a, b = (widths[n] ** np.arange(len(table), dtype=float) for n in (first, second))
            assert a @ table @ b == model.cost(widths).of(resource)


def test_blocks_that_go_and_come_are_priced() -> None:
    model, x = made("resnet")
    graph = ramify.trace(model, x)
    edits = [
        ramify.Drop("layer1.0"),
        ramify.Insert("layer2.1"),
        ramify.Insert("layer2.1"),
        ramify.Prune("layer2.1.conv1", 2),
        ramify.Split("layer2.0.conv2", 0),
    ]
    priced = ramify.cost.graph_cost(graph, edits)
    edited = ramify.cost.graph_cost(ramify.apply(graph, edits))
    assert (priced.params, priced.macs) == (edited.params, edited.macs)
    assert priced.by_kind == edited.by_kind
