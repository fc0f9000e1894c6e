"""Dropout and RReLU as a draw and a product: the recorded gradient and the draws of torch's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ramify
from ramify.methods import Method, Taylor
from ramify.tracing.recorder import record
from tests.nets import per_sample


class Always(nn.Module):
    """A random operation that does not ask for the mode of the model."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x)


OPERATIONS = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "fused": lambda x: torch.native_dropout(x, 0.3, train=True)[0],
    "off": lambda x: torch.native_dropout(x, 0.3, train=False)[0],
    "rrelu": lambda x: F.rrelu(x, 0.1, 0.5, training=True),
    "rrelu_": lambda x: F.rrelu(x.clone(), 0.1, 0.5, training=True, inplace=True),
    "mean": lambda x: F.rrelu(x, 0.1, 0.5),
    "mean_": lambda x: F.rrelu(x.clone(), 0.1, 0.5, inplace=True),
}


def network(operation: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), Always(operation), nn.Linear(6, 3)).double()


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_recorded_run_has_the_values_and_gradients_of_its_own_draws(name: str) -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    seen: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        seen.append(z)
        seen.append(OPERATIONS[name](z))
        return seen[-1]

    net = network(watched)
    record(net, lambda: net(x), grad=True)
    before, after = seen[-2:]
    (slope,) = torch.autograd.grad(after.sum(), before)
    assert torch.allclose(after, before * slope, rtol=0, atol=1e-12)
    drawn = slope[before < 0] if "rrelu" in name or "mean" in name else slope
    if name in ("dropout", "fused"):
        assert set(drawn.unique().tolist()) == {0.0, 1 / 0.7}
        assert abs(float((drawn == 0).double().mean()) - 0.3) < 0.1
    elif name in ("rrelu", "rrelu_"):
        assert 0.1 < drawn.min() < 0.15
        assert 0.45 < drawn.max() < 0.5
        assert (slope[before > 0] == 1).all()
    else:
        assert torch.allclose(drawn, torch.full_like(drawn, 1.0 if name == "off" else 0.3))


METHODS = (Taylor(), ramify.GradMax(), ramify.GaussNewton(), ramify.SplittingDescent())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize(
    ("name", "plain"), [("off", Tensor.clone), ("mean", partial(F.leaky_relu, negative_slope=0.3))]
)
def test_where_nothing_is_drawn_every_method_sees_the_plain_operation(
    name: str, plain: Callable[[Tensor], Tensor], method: Method
) -> None:
    x, labels = torch.randn(30, 4).double(), torch.randint(0, 3, (30,))
    found = []
    for operation in (OPERATIONS[name], plain):
        graph = ramify.trace(network(operation), x[:2])
        torch.manual_seed(2)
        found.append(method.propose(graph, per_sample, [(x, labels)]))
    assert found[0]
    assert [one.gain for one in found[0]] == pytest.approx([one.gain for one in found[1]], rel=1e-9)


def test_fused_dropout_counts_like_that_of_the_cpu() -> None:
    x, labels = torch.randn(30, 4).double(), torch.randint(0, 3, (30,))
    gains = []
    for name in ("dropout", "fused"):
        torch.manual_seed(3)
        graph = ramify.trace(network(OPERATIONS[name]), x[:2])
        torch.manual_seed(4)
        proposals = Taylor().propose(graph, per_sample, [(x, labels)])
        gains.append({one.edit: one.gain for one in proposals})
    assert gains[0] == pytest.approx(gains[1], rel=1e-12)
