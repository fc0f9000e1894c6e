"""Penalties against their formulas, written out by hand."""

import pytest
import torch

import ramify
from ramify.errors import RamifyError
from ramify.models import build
from ramify.relax import L1, ExpectedCost, GroupL1, channel_costs


def arch():
    return [torch.randn(3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)]


def test_l1():
    first, second = arch()
    weights = [torch.tensor([1.0, 2.0, 0.0]), torch.tensor(0.5)]
    expected = sum(w * abs(a) for w, a in zip([1, 2, 0], first.tolist(), strict=True))
    expected += 0.5 * sum(abs(a) for row in second.tolist() for a in row)
    assert float(L1(weights)([first, second])) == pytest.approx(expected)
    assert float(L1()([first, second])) == pytest.approx(
        float(first.abs().sum() + second.abs().sum())
    )


def test_l1_by_proximal_steps():
    first, second = arch()
    before = [first.clone(), second.clone()]
    L1([torch.tensor([1.0, 2.0, 0.0]), torch.tensor(0.5)], by_proximal=True).proximal(
        [first, second], 0.4
    )
    for alpha, old, shift in zip(
        [first, second], before, [torch.tensor([0.4, 0.8, 0.0]), torch.tensor(0.2)], strict=True
    ):
        torch.testing.assert_close(alpha, old.sign() * (old.abs() - shift).clamp_min(0))


@pytest.mark.parametrize("dim", [0, None])
def test_group_l1(dim):
    first, second = arch()
    rows = [[a] for a in first.tolist()] + second.tolist()
    if dim is None:
        rows = [first.tolist(), second.flatten().tolist()]
    expected = sum(sum(a * a for a in row) ** 0.5 for row in rows)
    assert float(GroupL1(dim)([first, second])) == pytest.approx(expected)


def test_group_l1_gives_whole_groups_of_zeros():
    alpha = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    GroupL1(by_proximal=True).proximal([alpha], 1.0)
    torch.testing.assert_close(alpha, torch.tensor([[2.4, 3.2], [0.0, 0.0]]))


def test_group_l1_has_a_gradient_where_a_group_is_zero():
    alpha = torch.zeros(2, 3, requires_grad=True)
    GroupL1()([alpha]).backward()
    assert alpha.grad.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("shape", [(2, 4), (4,)])
def test_expected_cost(shape):
    [_, alpha] = arch()
    alpha.requires_grad_()
    cost = torch.rand(shape, dtype=torch.float64)
    probabilities = alpha.exp() / alpha.exp().sum(1, keepdim=True)
    expected = (probabilities * cost).sum()
    found = ExpectedCost([cost])([alpha])
    torch.testing.assert_close(found, expected)
    mine, theirs = (torch.autograd.grad(value, alpha)[0] for value in (found, expected))
    torch.testing.assert_close(mine, theirs)


def test_what_does_not_match():
    with pytest.raises(RamifyError, match="1 tensors for 2"):
        L1([torch.ones(3)])(arch())
    with pytest.raises(RamifyError, match=r"tensor 1 of the penalty has the shape \(3,\)"):
        ExpectedCost([torch.ones(3), torch.ones(3)])(arch())


@pytest.mark.parametrize("resource", ["params", "macs", "energy"])
def test_a_channel_costs_what_the_network_saves_without_it(resource):
    model = build("preresnet", dataset_shape=(3, 8, 8), classes=4, width=3, depth=11)
    inputs = torch.randn(1, 3, 8, 8)
    graph = ramify.trace(model, inputs)
    pairs = [("stem", "blocks.0.conv2"), ("blocks.1.conv1", "blocks.1.conv2"), "blocks.0.conv1"]
    gates = ramify.gate(graph, pairs)
    costs = channel_costs(gates, graph, resource)
    ramify.fold(gates)
    before = ramify.cost.model_cost(model, inputs).of(resource)
    for names, cost in zip(gates.groups, costs, strict=True):
        saved = 0
        for name in names:
            pruned = build("preresnet", dataset_shape=(3, 8, 8), classes=4, width=3, depth=11)
            ramify.apply(ramify.trace(pruned, inputs), [ramify.Prune(name, 0)])
            saved += before - ramify.cost.model_cost(pruned, inputs).of(resource)
        assert cost.tolist() == [saved] * graph[names[0]].width
    assert len({float(cost[0]) for cost in costs}) == 3


def test_latency_of_a_channel():
    model = torch.nn.Sequential(torch.nn.Linear(4, 512), torch.nn.ReLU(), torch.nn.Linear(512, 2))
    graph = ramify.trace(model, torch.randn(2, 4))
    latency = ramify.latency.learn(graph, shapes=4, rounds=1)
    gates = ramify.gate(graph)
    [cost] = channel_costs(gates, graph, latency)
    slope = (latency.at({"0": 640}) - latency.at({"0": 384})) / 256
    assert float(cost[0]) == pytest.approx(max(slope, 0.0))
    with pytest.raises(RamifyError, match="there is no resource 'time'"):
        channel_costs(gates, graph, "time")
