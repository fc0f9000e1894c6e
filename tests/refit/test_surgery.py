"""The order and the costs of elimination, against a brute force that solves every subset anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ramify
from ramify.refit.curvature import reads_of
from ramify.refit.surgery import ReaderState, curvature_of, eliminate

STRENGTH = 0.01


def reader(channels, features, groups=1, outputs=4):
    """Random moments, weight, gradients and features of each channel."""
    size = channels * features
    reads = torch.randn(groups, 60, size).double()
    slopes = torch.randn(groups, 9, outputs).double()
    return (
        reads.transpose(1, 2) @ reads / 60,
        torch.randn(groups, size, outputs).double(),
        slopes.transpose(1, 2) @ slopes,
        torch.stack([torch.randperm(size).view(channels, features) for _ in range(groups)]),
    )


def block(moments, weight, gradients, where):
    """The block of a reader."""
    return ReaderState.of(moments, curvature_of(weight, gradients), where, STRENGTH)


def brute(readers, left):
    """Greedy elimination, the cost of each set of channels solved from nothing."""
    count = readers[0][3].shape[1]

    def cost(keep):
        total = 0.0
        for moments, weights, gradients, where in readers:
            parts = zip(moments, weights, gradients, where, strict=True)
            for a, w, g, place in parts:
                a = a + STRENGTH * a.diagonal().mean() * torch.eye(len(a)).double()
                stay = torch.cat([place[c] for c in keep])
                gone = torch.cat([place[c] for c in range(count) if c not in keep])
                change = torch.zeros_like(w)
                change[gone] = -w[gone]
                change[stay] = torch.linalg.solve(a[stay][:, stay], a[stay][:, gone] @ w[gone])
                total += float(0.5 * torch.trace(change.t() @ a @ change @ g))
        return total

    keep, order, costs, so_far = list(range(count)), [], [], 0.0
    while len(keep) > left:
        best = min(keep, key=lambda c: cost([k for k in keep if k != c]))
        keep.remove(best)
        order.append(best)
        costs.append(cost(keep) - so_far)
        so_far += costs[-1]
    return order, costs


@pytest.mark.parametrize(
    "channels, features, groups", [(14, 1, 1), (7, 3, 1), (6, 2, 3), (9, 1, 2)]
)
@pytest.mark.parametrize("several", [False, True])
def test_elimination_is_greedy_and_its_costs_are_exact(channels, features, groups, several):
    readers = [reader(channels, features, groups) for _ in range(2 if several else 1)]
    order, costs = eliminate([block(*own) for own in readers], 2)
    expected, dear = brute(readers, 2)
    assert order == expected
    assert costs == pytest.approx(dear, rel=1e-8, abs=1e-10)


def test_of_many_channels_a_few_are_looked_at_together():
    """With forty channels the pool is smaller than the group, the order nearly the greedy one."""
    own = reader(40, 1)
    order, costs = eliminate([block(*own)], 10)
    _, dear = brute([own], 10)
    assert len(set(order)) == 30
    assert sum(costs) == pytest.approx(sum(dear), rel=0.1)


def test_moments_that_rounding_left_indefinite_still_say_what_is_free():
    """Twelve channels with four independent reads, in float32, λ below what rounding leaves."""
    torch.manual_seed(0)
    reads = torch.randn(500, 4) @ torch.randn(4, 12) * 100
    moments = (reads.t() @ reads / 500)[None]
    moments -= 1e-6 * moments.diagonal(dim1=1, dim2=2).mean() * torch.eye(12)
    assert torch.linalg.cholesky_ex(moments)[1].any()
    weight, gradients = torch.randn(1, 12, 3), torch.eye(3)[None]
    where = torch.arange(12).view(1, 12, 1)
    flat = ReaderState.of(moments, curvature_of(weight, gradients), where, 1e-9)
    whole = float((weight[0].t() @ moments[0] @ weight[0]).trace() / 2)
    order, costs = eliminate([flat], 4)
    assert len(set(order)) == 8
    assert max(costs) < 1e-3 * whole


@pytest.mark.parametrize("outputs", [3, 50])
def test_curvature_is_that_of_the_gradients_however_many_outputs(outputs):
    """A vocabulary's outputs are followed back to the reads, and come to the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, outputs)).double()
    batches = [torch.randn(5, 4).double() for _ in range(2)]
    [read], samples = reads_of(ramify.trace(net, batches[0]), loss, batches, ["0"])
    assert samples == 10
    assert (read.weight is None) == (outputs <= 6)
    assert read.gradients.shape[-1] == min(outputs, 6)
    made = [net(x).detach().requires_grad_() for x in batches]
    for y in made:
        loss(nn.Identity(), y).sum().backward()
    slopes = torch.cat([y.grad for y in made]) @ net[2].weight
    found = read.gradients
    if read.weight is None:
        found = curvature_of(net[2].weight.t()[None].detach(), found)(torch.float64)
    torch.testing.assert_close(found[0], slopes.t() @ slopes, rtol=1e-10, atol=1e-12)


def loss(model, x):
    """One number a sample."""
    return model(x).pow(3).sum(1)
