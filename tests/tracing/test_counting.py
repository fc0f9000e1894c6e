"""Forwards whose Python looks at the number of channels, or at the mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ramify


class Counting(nn.Module):
    """Twice as large while there are eight channels: copies show nothing, a removal does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.a(x))
        return self.b(hidden) * (2 if hidden.size(1) >= 8 else 1)


class Requiring(Counting):
    def forward(self, x: Tensor) -> Tensor:
        assert self.a.out_features >= 8
        return self.b(torch.relu(self.a(x)))


class InTraining(Counting):
    """Only the training forward holds a size."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.a(x))
        if self.training:
            hidden = hidden + torch.ones(8)[None] * 0.1
        return self.b(hidden)


def test_a_removal_that_is_not_zeroing_is_not_called_exact() -> None:
    group = ramify.trace(Counting(), torch.randn(2, 4))["a"]
    assert not group.prune_exact
    assert not group.can_split


def test_a_forward_that_fails_with_a_channel_less_is_frozen() -> None:
    group = ramify.trace(Requiring(), torch.randn(2, 4))["a"]
    assert not group.can_prune


def test_groups_grow_in_the_training_forward_too() -> None:
    group = ramify.trace(InTraining(), torch.randn(2, 4))["a"]
    assert not group.can_prune
    assert not group.can_split


def test_splits_beside_prunes_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Counting()
    graph = ramify.trace(net, torch.randn(2, 4))
    for group in graph.groups:
        object.__setattr__(group, "can_split", True)  # as if the trial growth had missed it
    net.b.weight.data[:, 0] += 1
    net.a.out_features = 8
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    monkeypatch.setattr(
        net, "forward", lambda x: net.b(torch.relu(net.a(x))) / net.a.weight.size(0)
    )
    with pytest.raises(ramify.RamifyError, match="would have changed"):
        ramify.apply(graph, [ramify.Split("a", 0), ramify.Prune("a", 5)])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_an_optimizer_of_another_model_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    graph = ramify.trace(net, torch.randn(2, 4))
    other = torch.optim.Adam(nn.Linear(4, 8).parameters())
    with pytest.raises(ramify.RamifyError, match="holds no parameter of the model"):
        ramify.apply(graph, [ramify.Split("0", 0)], optimizer=other)
    assert net[0].out_features == 8
