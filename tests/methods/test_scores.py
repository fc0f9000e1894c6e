"""Scores against their formulas, and Taylor against gates on every consumer's own read."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

import ramify
from ramify import Prune, RamifyError
from ramify.edit.plan import Channel
from ramify.methods import L1, BNScale, Method, Taylor
from ramify.methods.trial import Trial
from ramify.probe.reads import first_order
from ramify.tracing.indexing import kernels
from ramify.tracing.recorder import tensors_of
from tests.methods.networks import KINDS, build, halved
from tests.nets import per_sample, prepared
from tests.structures.experts import ListedExperts


def by_columns(net: nn.Module, graph: ramify.ChannelGraph, name: str, batch: tuple) -> Tensor:
    """p (S, W) by an independent road: a channel's columns in its consumers, scaled by a gate.

    A consumer is linear in what it reads, so a gate on the read is a gate on the columns.
    """
    twin = copy.deepcopy(net)
    tensors, group = tensors_of(twin), graph[name]
    rows = []
    for values in per_sample(twin, batch):
        total = torch.zeros(group.width).double()
        for slot in group.slots:
            if slot.role == "consumer":
                weight = tensors[slot.name]
                (slope,) = torch.autograd.grad(values, weight, retain_graph=True)
                each = kernels(weight * slope, slot.dim, graph.positions(group, slot))
                total -= each.flatten(1).sum(1).detach()
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_first_order_is_the_gradient_of_a_gate_on_every_read(kind: str) -> None:
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    found = first_order(graph, per_sample, batch)
    groups = [g for g in graph.groups if g.can_prune and g.consumers]
    assert groups
    for group in groups:
        slots = ((slot.name, slot.dim) for slot in group.slots)
        scaled = [rows for place in slots for rows in graph.indexing.scaled_rows.get(place, ())]
        if any(rows.atom is group.atom for rows in scaled):
            continue  # read by a product of activations too: see below
        expected = by_columns(net, graph, group.name, batch)
        assert (found[group.name] - expected).abs().max() < 1e-12
        assert expected.abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["perceptron", "residual", "depthwise"])
def test_first_order_is_the_limit_of_shrinking_what_is_read(kind: str) -> None:
    """The true losses after 1e-6 of a prune, by columns multiplied by 1 - 1e-6."""
    net, batch = build(kind)
    graph = ramify.trace(net, batch[0][:2])
    for name, changes in first_order(graph, per_sample, batch).items():
        group = graph[name]
        twin = copy.deepcopy(net)
        tensors = tensors_of(twin)
        with torch.no_grad():
            for slot in group.slots:
                if slot.role == "consumer":
                    where = torch.from_numpy(graph.positions(group, slot)[1])
                    tensors[slot.name].movedim(slot.dim, 0)[where] *= 1 - 1e-6
            true = (per_sample(twin, batch) - per_sample(net, batch)) / 1e-6
        assert (changes[:, 1] - true).abs().max() < 1e-5 * true.abs().max() + 1e-8


class Heads(nn.Module):
    """Queries and keys meet each other: one of the two is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.q(x) @ self.k(x).mT / 2).softmax(-1) @ self.v(x)).mean(1)


def test_first_order_counts_a_product_of_activations_once() -> None:
    torch.manual_seed(0)
    net = Heads().double()
    batch = (torch.randn(6, 4, 3).double(), torch.randint(0, 2, (6,)))
    graph = ramify.trace(net, batch[0][:2])
    group = graph["q"]
    assert group is graph["k"]
    found = first_order(graph, per_sample, batch)[group.name]
    with torch.no_grad():  # a query scaled by 1 - t is the product scaled by 1 - t
        before = per_sample(net, batch)
        net.q.weight[2] *= 1 - 1e-6
        net.q.bias[2] *= 1 - 1e-6
        true = (per_sample(net, batch) - before) / 1e-6
    assert true.abs().max() > 1e-4
    assert (found[:, 2] - true).abs().max() < 1e-6


def test_first_order_of_a_head_channel_is_its_product_and_its_column() -> None:
    net, batch = build("transformer")
    graph = ramify.trace(net, batch[0][:2])
    found = first_order(graph, per_sample, batch)["qkv:1"]
    assert graph["qkv:1"].width == 4
    with torch.no_grad():  # channel 2 of the queries, and the column that reads it in the values
        before = per_sample(net, batch)
        net.qkv.weight[2] *= 1 - 1e-6
        net.qkv.bias[2] *= 1 - 1e-6
        net.out.weight[:, 2] *= 1 - 1e-6
        true = (per_sample(net, batch) - before) / 1e-6
    assert true.abs().max() > 1e-4
    assert (found[:, 2] - true).abs().max() < 1e-6


class TokensFirst(nn.Module):
    """Samples lie in other places: (T, S, C), and S * T rows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = softplus(self.a(x.transpose(0, 1)))
        time, samples, width = x.shape
        x = softplus(self.b(x.reshape(time * samples, width)))
        return self.c(x.reshape(time, samples, -1).mean(0))


def test_samples_are_told_apart_wherever_they_lie() -> None:
    torch.manual_seed(0)
    net = TokensFirst().double()
    batch = (torch.randn(6, 4, 3).double(), torch.randint(0, 2, (6,)))
    graph = ramify.trace(net, batch[0][:2])
    for name, found in first_order(graph, per_sample, batch).items():
        assert (found - by_columns(net, graph, name, batch)).abs().max() < 1e-12


def test_samples_that_meet_are_told_apart_one_by_one() -> None:
    net, batch = prepared("perceptron")
    graph = ramify.trace(net, batch[0])

    def contrast(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        z = model(batch[0])
        return cross_entropy(z @ z.T, torch.arange(len(z)), reduction="none")

    found = first_order(graph, contrast, batch)["b"]
    weight = net.c.weight
    for sample, value in enumerate(contrast(net, batch)):
        (slope,) = torch.autograd.grad(value, weight, retain_graph=True)
        assert torch.allclose(found[sample], -(weight * slope).sum(0), atol=1e-12)


def test_taylor_ranks_by_the_mean_of_absolute_changes_over_all_batches() -> None:
    net, batch = prepared("residual")
    graph = ramify.trace(net, batch[0][:2])
    whole = first_order(graph, per_sample, batch)
    proposals = Taylor().propose(graph, per_sample, halved(batch))
    assert len(proposals) == sum(g.width for g in graph.groups if g.can_prune)
    for proposal in proposals:
        changes = whole[proposal.edit.group][:, proposal.edit.channel]
        assert proposal.score == pytest.approx(-float(changes.abs().mean()), rel=1e-9)
        assert proposal.gain == pytest.approx(-float(changes.mean()), abs=1e-12)
    scores = [p.score for p in proposals]
    assert scores == sorted(scores, reverse=True)


def test_what_taylor_calls_harmless_is_harmless() -> None:
    """A channel that nothing reads goes first, and its true prune costs nothing."""
    net, batch = prepared("residual")
    with torch.no_grad():
        for weight in (net.a1.weight, net.b1.weight, net.fc.weight):
            weight[:, 2] = 0
    graph = ramify.trace(net, batch[0][:2])
    best = Taylor().propose(graph, per_sample, [batch])[0]
    assert best.edit == Prune("stem", 2)
    assert abs(Trial(graph, per_sample, [batch]).decrease([best.edit])) < 1e-12


def test_l1_sums_all_producers_over_the_mean_of_the_group() -> None:
    net, batch = prepared("residual")
    graph = ramify.trace(net, batch[0][:2])
    made = (net.stem, net.a2, net.b2)
    norms = sum(layer.weight.detach().abs().flatten(1).sum(1) for layer in made)
    found = {
        p.edit.channel: p.score
        for p in L1().propose(graph, per_sample, [])
        if p.edit.group == "stem"
    }
    for channel, norm in enumerate(norms / norms.mean()):
        assert found[channel] == pytest.approx(-float(norm))


def test_bn_scale_is_the_mean_of_the_norm_layers_on_the_path() -> None:
    net, batch = prepared("depthwise")
    graph = ramify.trace(net, batch[0][:2])
    with torch.no_grad():
        net.n1.weight.uniform_(-1, 1)
        net.n2.weight.uniform_(-1, 1)
    expected = ((net.n1.weight.abs() + net.n2.weight.abs()) / 2).detach()
    proposals = BNScale().propose(graph, per_sample, [])
    assert {p.edit.group for p in proposals} == {"p"}  # q has no norm layer
    for proposal in proposals:
        assert proposal.score == pytest.approx(-float(expected[proposal.edit.channel]))


class OwnNorm(nn.Module):
    """A norm by function, its scale a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.gamma, self.shift = nn.Parameter(torch.rand(4)), nn.Parameter(torch.zeros(4))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.batch_norm(self.a(x), self.mean, self.var, self.gamma, self.shift)
        return self.c(torch.relu(x))


def test_bn_scale_sees_norms_that_are_no_modules() -> None:
    net = OwnNorm()
    graph = ramify.trace(net, torch.randn(2, 3, 4, 4))
    best = BNScale().propose(graph, per_sample, [])[0]
    assert best.edit == Prune("a", int(net.gamma.argmin()))


def test_bn_scale_refuses_a_model_without_norms() -> None:
    net, batch = prepared("perceptron")
    graph = ramify.trace(net, batch[0])
    with pytest.raises(RamifyError, match="use L1 or Taylor"):
        BNScale().propose(graph, per_sample, [batch])
    with pytest.raises(RamifyError, match="there is no batch"):
        Taylor().propose(graph, per_sample, [])


@pytest.mark.parametrize(
    "method",
    [Taylor(), ramify.GaussNewton(morphisms=("prune",), momentum=0.5)],  # 0.5: a mean of two
    ids=["taylor", "gauss-newton"],
)
def test_an_expert_loses_nothing_in_a_batch_that_does_not_reach_it(method: Method) -> None:
    torch.manual_seed(0)
    net, x = ListedExperts().double().eval(), torch.randn(2, 6).double()
    graph = ramify.trace(net, x)

    def values(*batches: Tensor) -> dict[tuple[str, Channel], float]:
        found = method.propose(graph, lambda model, x: model(x).square().sum(1), batches)
        return {(p.edit.group, p.edit.channel): p.value for p in found}

    first, second, both = values(x[:1]), values(x[1:]), values(x[:1], x[1:])
    reached = [key for key in first if first[key] and not second.get(key)]
    assert any(group.startswith("experts") for group, _ in reached)
    for key, value in both.items():
        assert value == pytest.approx((first.get(key, 0.0) + second.get(key, 0.0)) / 2)
