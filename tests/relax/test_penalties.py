"""Penalties against their formulas, written out by hand."""

import pytest
import torch

import ramify
from ramify.errors import RamifyError
from ramify.models import build
from ramify.relax import L1, ExpectedCost, GroupL1, channel_costs, norm_costs
from ramify.relax.penalties import over_mean


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


def test_the_gradient_of_the_expected_cost_is_lipschitz():
    """Proposition 2.9 of the RARTS thesis.

    vᵀHv is the covariance of c and (v - mean)² under the softmax, which is at most half of the
    range of c for a unit v.
    """
    largest = 0.0
    for scale in (0.1, 1, 3, 10) * 10:
        cost, point = torch.rand(5, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
        penalty = ExpectedCost([cost])
        hessian = torch.func.hessian(lambda alpha, p=penalty: p([alpha[None]]))(scale * point[0])
        norm = torch.linalg.eigvalsh(hessian).abs().max() / (cost.max() - cost.min())
        largest = max(largest, float(norm))
    assert 0.05 < largest <= 0.5


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


def stages() -> tuple[torch.nn.Module, torch.Tensor]:
    """Two convolutions of 3x3 with norms, 3 to 4 to 5 channels, and a linear layer behind."""
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2),
    ).double()  # fmt: skip
    return net, torch.randn(2, 3, 6, 6, dtype=torch.float64)


def test_the_gradient_of_the_weighted_penalty_is_that_of_morphnets_regulariser():
    net, inputs = stages()
    first, second = net[1].weight, net[4].weight
    with torch.no_grad():
        first.copy_(torch.tensor([0.5, -0.25, 1.0, 2.0]))
    weights = norm_costs(ramify.trace(net, inputs[:1]), "params")
    penalty = L1([weights["1.weight"], weights["4.weight"]])([first, second])
    # Equation (6), all channels alive: 9 · 3 in and 9 · 5 out for the first layer; what a channel
    # has beside the convolutions is its norm's two parameters.
    regulariser = 9 * (3 * first.abs().sum() + 4 * second.abs().sum() + 5 * first.abs().sum())
    regulariser = regulariser + 2 * second.abs().sum()  # the linear layer
    regulariser = regulariser + 2 * (first.abs().sum() + second.abs().sum())
    torch.testing.assert_close(penalty, regulariser)
    for scale in (first, second):
        mine, theirs = (
            torch.autograd.grad(p, scale, retain_graph=True)[0] for p in (penalty, regulariser)
        )
        torch.testing.assert_close(mine, theirs)
    assert torch.autograd.grad(penalty, first)[0].tolist() == [74.0, -74.0, 74.0, 74.0]


def test_a_pruned_layer_makes_its_neighbours_cheaper():
    net, inputs = stages()
    graph = ramify.trace(net, inputs[:1])
    graph = ramify.apply(graph, [ramify.Prune("3", 0), ramify.Prune("3", 1)])
    weights = norm_costs(graph, "params")
    assert weights["1.weight"].tolist() == [27 + 2 + 9 * 3] * 4
    assert weights["4.weight"].tolist() == [9 * 4 + 2 + 2] * 3


@pytest.mark.parametrize("resource", ["params", "macs"])
def test_scales_of_one_channel_share_what_it_costs(resource):
    model = build("resnet20", dataset_shape=(3, 8, 8), classes=4, width=2)
    graph = ramify.trace(model, torch.randn(1, 3, 8, 8))
    weights = norm_costs(graph, resource)
    before = ramify.cost.graph_cost(graph).of(resource)
    for group in (group for group in graph.groups if group.can_prune):
        names = [name for name in group.carriers if name in weights]
        total = sum(float(weights[name][0]) for name in names)
        saved = before - ramify.cost.graph_cost(graph, [ramify.Prune(group.name, 0)]).of(resource)
        assert total == pytest.approx(saved)
    with pytest.raises(RamifyError, match="there is no resource 'time'"):
        norm_costs(graph, "time")


def test_a_norm_over_two_groups_weighs_each_by_its_own():
    class Beside(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(2, 3), torch.nn.Linear(5, 4)
            self.norm, self.head = torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 2)

        def forward(self, x):
            return self.head(self.norm(torch.cat([self.a(x[:, :2]), self.b(x)], 1)))

    weights = norm_costs(ramify.trace(Beside(), torch.randn(3, 5)), "params")
    assert weights["norm.weight"].tolist() == [2 + 1 + 2 + 2] * 3 + [5 + 1 + 2 + 2] * 4


def test_weights_of_zero_have_no_mean():
    halves = over_mean([torch.tensor([0.0, 1.0]), torch.tensor([3.0])])
    assert torch.equal(torch.cat(halves), torch.tensor([0.0, 0.5, 1.5]))
    with pytest.raises(RamifyError, match="no channel costs anything"):
        over_mean([torch.zeros(3)])
