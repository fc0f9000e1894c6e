"""Kernels before batch norms get their first length back, and the network stays what it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.store.state import NetworkInTraining
from ramify.train.kernel_lengths import kernel_lengths, restore_lengths


class Net(nn.Module):
    """Norms behind a convolution with a bias, a depthwise one and a linear; one after an add."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.depth = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6))
        self.plain = nn.Conv2d(6, 6, 1)
        self.after_add = nn.BatchNorm2d(6)
        self.linear = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False), nn.Tanh())
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth(self.first(x))
        x = self.after_add(x + self.plain(x))
        return self.head(self.linear(x.mean((2, 3))))


NORMALISED = {"first.0.weight", "depth.0.weight", "linear.0.weight"}


def trained(kind: type[torch.optim.Optimizer], **settings: float) -> NetworkInTraining:
    torch.manual_seed(0)
    model = Net().double()
    optimizer = kind(model.parameters(), **settings)  # type: ignore[call-arg]
    for _ in range(3):
        optimizer.zero_grad()
        model(batch()).square().mean().backward()
        optimizer.step()
    return NetworkInTraining(model, optimizer, [copy.deepcopy(model)])


def batch() -> Tensor:
    return torch.randn(16, 2, 7, 7, generator=torch.Generator().manual_seed(1)).double()


def lengths(model: nn.Module) -> dict[str, float]:
    return kernel_lengths(ramify.trace(model, batch()))


def test_the_weights_that_a_norm_alone_takes_are_found() -> None:
    model = Net().double()
    found = lengths(model)
    assert set(found) == NORMALISED
    assert found["first.0.weight"] == pytest.approx(
        float(model.first[0].weight.detach().flatten(1).norm(dim=1).mean())
    )


@pytest.mark.parametrize(
    "kind, settings",
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.Adam, {"lr": 0.01}),
    ],
)
def test_lengths_change_and_the_function_does_not(kind, settings) -> None:
    subject = trained(kind, **settings)
    model, [average] = subject.model, subject.followers
    assert isinstance(average, nn.Module)
    both = (model.eval(), average.eval())
    before = [one(batch()) for one in both]
    wanted = dict.fromkeys(NORMALISED - {"linear.0.weight"}, 0.3)
    kept = model.linear[0].weight.clone()
    restore_lengths(ramify.trace(model, batch()), subject, wanted)
    for old, one in zip(before, both, strict=True):
        torch.testing.assert_close(one(batch()), old, rtol=0, atol=2e-3)  # ε of the norms
    assert all(lengths(model)[name] == pytest.approx(0.3) for name in wanted)
    every = model.first[0].weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(every, torch.full_like(every, 0.3))
    assert torch.equal(model.linear[0].weight, kept)


def test_the_next_step_turns_a_kernel_by_what_the_longer_rate_says() -> None:
    """Momentum follows: with kernels of half the length a step counts four times."""
    subject = trained(torch.optim.SGD, lr=0.1, momentum=0.9)
    other = copy.deepcopy(subject)
    weight = subject.model.first[0].weight
    half = {"first.0.weight": lengths(subject.model)["first.0.weight"] / 2}
    old = other.model.first[0].weight
    factors = half["first.0.weight"] / old.detach().flatten(1).norm(dim=1)
    restore_lengths(ramify.trace(subject.model, batch()), subject, half)
    for one in (subject, other):
        one.optimizer.zero_grad()  # gradients of 0: what is left of a step is momentum
        for parameter in one.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    start = weight.detach().clone(), old.detach().clone()
    subject.optimizer.step(), other.optimizer.step()
    moved = (weight - start[0]).flatten(1) / factors[:, None]  # in the units of the old kernels
    plain = (old - start[1]).flatten(1)
    torch.testing.assert_close(moved, plain / factors[:, None] ** 2)


@pytest.mark.parametrize("variance, left", [(1e-4, 1e-4), (0.25, 1e-2)])
def test_where_epsilon_counts_kernels_stay(variance: float, left: float) -> None:
    """A thousand times ε, 0.01, is the least that a variance is brought to."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3)).eval()
    model[1].running_var.fill_(variance)
    x = torch.randn(4, 1, 3, 3)
    before = model(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    subject = NetworkInTraining(model, optimizer)
    restore_lengths(ramify.trace(model, x), subject, {"0.weight": 1e-6})
    torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model[1].running_var, torch.full((3,), left))


def test_a_state_dictionary_in_the_memory_of_the_model_is_rescaled_once() -> None:
    subject = trained(torch.optim.SGD, lr=0.1)
    model = subject.model.eval()
    before, follower = model(batch()), model.state_dict()
    subject = NetworkInTraining(model, subject.optimizer, [follower, follower])
    restore_lengths(ramify.trace(model, batch()), subject, {"first.0.weight": 0.3})
    torch.testing.assert_close(model(batch()), before, rtol=0, atol=2e-3)
    assert lengths(model)["first.0.weight"] == pytest.approx(0.3)
    assert all(torch.equal(follower[name], held) for name, held in model.state_dict().items())


class Noisy(torch.optim.SGD):
    """Keeps numbers of its own for biases, of which nothing is known."""

    def step(self, closure=None):  # type: ignore[no-untyped-def]
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            if parameter.dim() == 1:
                self.state[parameter]["noise"] = torch.randn_like(parameter)


def test_a_state_that_is_not_known_is_refused_before_anything_changes() -> None:
    subject = trained(Noisy, lr=0.1)
    before = copy.deepcopy(subject.model.state_dict())
    graph = ramify.trace(subject.model, batch())
    with pytest.raises(ramify.RamifyError, match="Noisy keeps 'noise' for 'first.0.bias'"):
        restore_lengths(graph, subject, {"first.0.weight": 0.3})
    for name, held in subject.model.state_dict().items():
        assert torch.equal(held, before[name])
