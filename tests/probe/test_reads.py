"""Reads against the same network run with hooks on its layers."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

import ramify
from ramify.probe.reads import Read, first_order, reads, visit_reads
from tests.checks import snapshot
from tests.methods.networks import KINDS, build
from tests.nets import per_sample, prepared


def hooked(net: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """What every layer reads and the gradient of the losses' sum at its own read, by module."""
    copies: dict[str, Tensor] = {}

    def hook(name: str, x: Tensor) -> Tensor:
        copies[name] = x.clone() if x.requires_grad else x.clone().requires_grad_()
        return copies[name]

    layers = [(n, m) for n, m in net.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    handles = [
        layer.register_forward_pre_hook(lambda _, args, name=name: (hook(name, args[0]),))
        for name, layer in layers
    ]
    total = per_sample(net, batch).sum()
    for handle in handles:
        handle.remove()
    slopes = torch.autograd.grad(total, list(copies.values()), allow_unused=True)
    zipped = zip(copies.items(), slopes, strict=True)
    return {n: (x.detach(), torch.zeros_like(x) if g is None else g) for (n, x), g in zipped}


class Flattened(nn.Module):
    """Channels in blocks behind a flattening, and two groups side by side behind a `cat`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.c, self.fc = nn.Conv2d(6, 5, 1), nn.Linear(5 * 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([torch.relu(self.a(x)), torch.tanh(self.b(x))], 1)
        return self.fc(max_pool2d(torch.relu_(self.c(x)), 2).flatten(1))


def flattened() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    return Flattened().double(), (torch.randn(7, 3, 4, 4).double(), torch.randint(0, 2, (7,)))


@pytest.mark.parametrize("kind", ["perceptron", "conv-bn-softplus", "residual", "depthwise"])
def test_values_and_gradients_are_those_of_each_layers_own_read(kind: str) -> None:
    net, batch = prepared(kind)
    graph = ramify.trace(net, batch[0][:2])
    expected, found = hooked(net, batch), reads(graph, per_sample, batch)
    consumers = {name for group in graph.groups for name in group.consumers}
    assert {read.weight for read in found} == consumers
    for read in found:
        value, gradient = expected[read.module]
        assert read.weight == f"{read.module}.weight"
        assert read.bias in (None, f"{read.module}.bias")
        assert torch.allclose(read.value, value, rtol=1e-12, atol=1e-14)
        assert read.gradient is not None
        assert torch.allclose(read.gradient, gradient, rtol=1e-12, atol=1e-14)


def test_channels_lie_where_the_consumers_columns_do() -> None:
    net, batch = flattened()
    graph = ramify.trace(net, batch[0][:2])
    found = {read.weight: read for read in reads(graph, per_sample, batch)}
    both = found["c.weight"].channels
    assert [(each.group.name, each.dim) for each in both] == [("a", 1), ("b", 1)]
    assert both[0].owner.tolist() == [0, 1, 2, 3, -1, -1]
    assert both[1].positions.tolist() == [[4], [5]]
    (last,) = found["fc.weight"].channels
    assert last.positions.shape == (5, 4)
    for read in found.values():
        for channels in read.channels:
            (slot,) = [s for s in channels.group.slots if s.name == read.weight]
            columns = torch.from_numpy(graph.positions(channels.group, slot))
            assert torch.equal(channels.positions, columns)
    sums = last.sum_positions(found["fc.weight"].value)
    assert torch.allclose(sums, found["fc.weight"].value.view(7, 5, 4).sum(2))


def test_a_convolution_says_how_it_reads() -> None:
    """The arguments are all that is needed to read the taps of every channel."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2)
    ).double()
    net.append(nn.Flatten()).append(nn.LazyLinear(2).double())
    x = torch.randn(5, 3, 9, 9).double()
    net(x)
    graph = ramify.trace(net, x[:2])
    found: dict[str, tuple[Read, Tensor]] = {}
    visit_reads(graph, [x], lambda read: found.update({read.module: (read, read.value.clone())}))
    read, value = found["2"]
    assert read.operation == "aten::convolution"
    given = read.arguments
    assert not given["transposed"]
    assert given["groups"] == 1
    taps = nn.functional.unfold(value, 3, given["dilation"], given["padding"], given["stride"])
    out = torch.einsum("oi,sil->sol", net[2].weight.flatten(1), taps) + net[2].bias[:, None]
    assert torch.allclose(out.view(net[:3](x).shape), net[:3](x))
    assert found["4"][0].operation == "aten::addmm"


@pytest.mark.parametrize("kind", [*KINDS, "similarity", "crossed"])
def test_visits_show_the_values_of_every_weighted_read(kind: str) -> None:
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    expected = {
        (read.number, read.weight): read.value
        for read in reads(graph, per_sample, batch)
        if read.parameters
    }
    found: list[tuple[Any, Tensor]] = []
    visit_reads(graph, [batch[0]], lambda r: found.append((r.weight, r.value.clone())))
    assert [name for name, _ in found] == [weight for _, weight in expected]
    for (_, mine), theirs in zip(found, expected.values(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)  # attention runs fused here


def test_visits_need_no_labels_and_take_any_batches() -> None:
    net, (x, y) = flattened()
    graph = ramify.trace(net, x[:2])
    sums: dict[str, list[Tensor]] = {"bare": [], "pairs": []}
    visit_reads(graph, x.split(3), lambda r: sums["bare"].append(r.value.sum()))
    visit_reads(
        graph,
        zip(x.split(3), y.split(3), strict=True),
        lambda r: sums["pairs"].append(r.value.sum()),
        forward=lambda model, batch: model(batch[0]),
    )
    assert len(sums["bare"]) == 3 * 2  # three batches, two readers
    assert torch.equal(torch.stack(sums["bare"]), torch.stack(sums["pairs"]))


def test_groups_can_be_named() -> None:
    net, batch = flattened()
    graph = ramify.trace(net, batch[0][:2])
    found: list[Read] = []
    visit_reads(graph, [batch[0]], found.append, groups=[graph["b"]])
    assert [[each.group.name for each in read.channels] for read in found] == [["b"]]
    assert list(first_order(graph, per_sample, batch, [graph["c"]])) == ["c"]


def test_one_read_at_a_time_is_held() -> None:
    """What was shown and is not read again is free before the next read is shown."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8) for _ in range(6)]
    net = nn.Sequential(*[each for layer in layers for each in (layer, nn.Tanh())])
    x = torch.randn(4, 8)
    graph = ramify.trace(net, x)
    alive: list[Any] = []

    def visit(read: Read) -> None:
        assert sum(each() is not None for each in alive[:-1]) == 0
        alive.append(weakref.ref(read.value))

    visit_reads(graph, [x], visit)
    assert len(alive) == 5


def test_reads_leave_the_model_as_it_was() -> None:
    net, batch = prepared("conv-bn-softplus")
    net.train().requires_grad_(False)
    graph = ramify.trace(net, batch[0][:2])
    before = snapshot(net)
    reads(graph, per_sample, batch)
    visit_reads(graph, [batch[0]], lambda read: None)
    with pytest.raises(ZeroDivisionError):
        visit_reads(graph, [batch[0]], lambda read: 1 / 0)  # type: ignore[arg-type]
    assert snapshot(net) == before


def test_the_first_order_is_value_times_gradient() -> None:
    net, batch = flattened()
    graph = ramify.trace(net, batch[0][:2])
    found = first_order(graph, per_sample, batch)
    total = {name: torch.zeros_like(changes) for name, changes in found.items()}
    for read in reads(graph, per_sample, batch):
        assert read.gradient is not None
        product = (read.value * read.gradient).reshape(*read.value.shape[:2], -1).sum(2)
        for channels in read.channels:
            total[channels.group.name] -= channels.sum_positions(product)
    for name, changes in found.items():
        assert torch.allclose(changes, total[name], atol=1e-14)


class Fickle(nn.Module):
    """Takes another path each time that it runs."""

    count: list[int] = []  # noqa: RUF012  (kept outside of the model's own state)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        type(self).count.append(0)
        x = self.a(x)
        return self.b(torch.tanh(x) if len(type(self).count) % 2 else torch.relu(x))


def test_a_forward_that_takes_another_path_is_refused() -> None:
    net = Fickle()
    graph = ramify.trace(net, torch.randn(2, 3))
    with pytest.raises(ramify.RamifyError, match="ran other operations"):
        visit_reads(graph, [torch.randn(2, 3)], lambda read: None)


def test_a_loss_that_joins_channels_is_refused() -> None:
    net, batch = prepared("perceptron")
    net.b = nn.Linear(5, 5).double()
    net.c = nn.Linear(5, 2).double()
    graph = ramify.trace(net, batch[0][:2])

    def tied(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return per_sample(model, batch) + (model.a.bias - model.b.bias).square().sum()

    with pytest.raises(ramify.RamifyError, match="concatenates or slices the channels"):
        first_order(graph, tied, batch)
    ramify.apply(graph, [ramify.Split("a", 0)])
    with pytest.raises(ramify.RamifyError, match="trace again"):
        reads(graph, per_sample, batch)
