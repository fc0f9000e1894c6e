"""The order and the costs of elimination, against a brute force that solves every subset anew."""

from __future__ import annotations

import pytest
import torch

from ramify.refit.surgery import Block, eliminate

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
    order, costs = eliminate([Block.of(*own, STRENGTH) for own in readers], 2)
    expected, dear = brute(readers, 2)
    assert order == expected
    assert costs == pytest.approx(dear, rel=1e-8, abs=1e-10)


def test_of_many_channels_a_few_are_looked_at_together():
    """With forty channels the pool is smaller than the group, the order nearly the greedy one."""
    own = reader(40, 1)
    order, costs = eliminate([Block.of(*own, STRENGTH)], 10)
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
    block = Block.of(moments, weight, gradients, torch.arange(12).view(1, 12, 1), 1e-9)
    whole = float((weight[0].t() @ moments[0] @ weight[0]).trace() / 2)
    order, costs = eliminate([block], 4)
    assert len(set(order)) == 8
    assert max(costs) < 1e-3 * whole
