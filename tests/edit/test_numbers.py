"""Edits where numbers are complex, half, shared by several objects, or held by autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ramify
from ramify import Drop, Insert, Prune, RamifyError, Split
from ramify.tracing.verify.comparison import near
from tests.checks import ability
from tests.structures import STRUCTURES

X = torch.linspace(-1.0, 1.0, 20).reshape(5, 4)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def apart() -> Split:
    """A split of which the copies move."""
    return Split("0", 1, offsets={"0.weight": torch.stack([torch.ones(4), -torch.ones(4)])})


class Complex(nn.Module):
    """Complex weights and outputs; divided by the width where that is asked for."""

    def __init__(self, divided: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 6, dtype=torch.complex64)
        self.b = nn.Linear(6, 2, dtype=torch.complex64)
        self.divided = divided

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x.to(torch.complex64)).tanh())
        return out / self.a.out_features if self.divided else out


def test_complex_outputs_are_compared() -> None:
    graph = ramify.trace(Complex(divided=True), X)
    assert not graph["a"].can_split
    assert "number of channels" in graph["a"].reason
    model = Complex(divided=False)
    before = model(X)
    ramify.apply(ramify.trace(model, X), [Split("a", 1, (0.3, 0.7)), Split("a", 4)])
    torch.testing.assert_close(model(X), before)


def test_an_infinite_output_hides_no_change_of_the_others() -> None:
    one, other = torch.tensor([1.0, -torch.inf]), torch.tensor([2.0, -torch.inf])
    assert near(one, one.clone(), slack=(1e-7) ** 0.5)
    assert not near(one, other, slack=(1e-7) ** 0.5)


@pytest.mark.parametrize("name", ["CountsChannels", "HiddenCount", "ResidualStream"])
def test_what_depends_on_a_width_shows_in_coarse_numbers_too(name: str) -> None:
    graph = STRUCTURES[name].graph()
    model = copy.deepcopy(graph.model).bfloat16()
    found = ramify.trace(model, graph.inputs.bfloat16())
    assert [ability(group) for group in found.groups] == [ability(g) for g in graph.groups]


class Divided(nn.Module):
    """A wide layer whose output is divided by its width."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(4, 2048), nn.Linear(2048, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.relu(self.a(x))) / self.a.out_features
        return out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_sum_over_many_channels_is_no_noise(dtype: torch.dtype) -> None:
    graph = ramify.trace(Divided().to(dtype), X.to(dtype))
    assert not graph["a"].can_split
    assert "depends on the number of channels" in graph["a"].reason


class Scaled(nn.Module):
    """A weight times a number that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.size = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(F.linear(x, self.weight * self.size)))
        return out


def whole_norm() -> nn.Module:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(4, 6), dim=None), nn.ReLU(), nn.Linear(6, 2))


@pytest.mark.parametrize("make", [Scaled, whole_norm])
def test_a_weight_that_is_multiplied_by_a_learned_number(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    graph = ramify.trace(model, X)
    group = graph.groups[0]
    before = model(X)
    if group.can_split:
        graph = ramify.apply(graph, [Split(group.name, 1)])
        torch.testing.assert_close(model(X), before)
    width = graph.groups[0].width
    assert ramify.apply(graph, [Prune(group.name, 0)]).groups[0].width == width - 1


# ------------------------------------------------------------------- the same object twice


class Residual(nn.Module):
    """A block of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))


def test_a_follower_that_is_given_twice_is_displaced_once() -> None:
    def followers(average: nn.Module) -> list[nn.Module]:
        shared = nn.Sequential(*average.children())
        return [average, average, shared]

    model = net()
    average = copy.deepcopy(model)
    ramify.apply(ramify.trace(model, X), [apart()], followers=followers(average))
    torch.testing.assert_close(average(X), model(X))
    model = net()
    mean = torch.optim.swa_utils.AveragedModel(model)
    ramify.apply(ramify.trace(model, X), [apart()], followers=[mean, mean.module])
    torch.testing.assert_close(mean(X), model(X))


def test_an_optimizer_that_is_given_twice_gets_the_copies_of_a_block_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(*(Residual() for _ in range(3))))
    optimizer = torch.optim.Adam(model.parameters())
    average = copy.deepcopy(model)
    graph = ramify.trace(model, X)
    ramify.apply(
        graph,
        [Drop("1.0"), Insert("1.1")],
        optimizer=[optimizer, optimizer],
        followers=[average, average],
    )
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))
    torch.testing.assert_close(average(X), model(X))


def test_a_follower_of_inference_mode_is_refused() -> None:
    model = net()
    with torch.inference_mode():
        average = copy.deepcopy(model)
    with pytest.raises(RamifyError, match="'0.weight' was made under torch.inference_mode"):
        ramify.apply(ramify.trace(model, X), [Split("0", 1)], followers=average)
    assert model[0].out_features == average[0].out_features == 6
    with torch.inference_mode():
        average(X)


def test_a_follower_that_holds_no_tensors_is_named() -> None:
    model = net()
    arrays = {name: value.detach().numpy() for name, value in model.named_parameters()}
    with pytest.raises(RamifyError, match=r"for '0.weight' of shape \(6, 4\) this one has a ndarr"):
        ramify.apply(ramify.trace(model, X), [Split("0", 1)], followers=[arrays])  # type: ignore[list-item]


# ------------------------------------------------------------------------------- autograd


def test_a_backward_pass_of_before_gives_no_channel_the_gradients_of_another() -> None:
    model = net()
    loss = model(X).square().sum()
    ramify.apply(ramify.trace(model, X), [Split("2", 1), Prune("2", 3)])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    model.zero_grad()
    model(X).square().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_an_edit_while_a_backward_pass_runs_is_refused() -> None:
    model = net()
    graph, said = ramify.trace(model, X), list[str]()

    def hook(grad: Tensor) -> None:
        with pytest.raises(RamifyError) as caught:
            ramify.apply(graph, [Split("0", 1)])
        said.append(str(caught.value))

    out = model(X)
    out.register_hook(hook)
    out.sum().backward()
    assert "during a backward pass" in said[0]
    assert model[0].out_features == 6
    ramify.apply(graph, [Split("0", 1)])


# ------------------------------------------------------------------- types and their range


@pytest.mark.parametrize("shares", [torch.tensor([0.5, 0.5]), np.array([0.5, 0.5]), [0.5, 0.5]])
def test_shares_may_be_any_list_of_numbers(shares: tuple[float, ...]) -> None:
    model = net()
    before = model(X)
    edit = Split("0", 1, weights=shares)
    assert edit == Split("0", 1, (0.5, 0.5))
    ramify.apply(ramify.trace(model, X), [edit])
    torch.testing.assert_close(model(X), before)


@pytest.mark.parametrize("value, shares", [(2000.0, (0.9, 0.1)), (6e-7, (0.95, 0.05))])
def test_what_divides_steps_stays_within_the_range_of_a_half(
    value: float, shares: tuple[float, float]
) -> None:
    model, x = net().half(), X.half()
    optimizer = torch.optim.Adam(model.parameters(), eps=0.0)
    model(x).sum().backward()
    optimizer.step()
    for state in optimizer.state.values():
        state["exp_avg_sq"].fill_(value)
    ramify.apply(ramify.trace(model, x), [Split("0", 1, shares)], optimizer=optimizer)
    for state in optimizer.state.values():
        assert bool(state["exp_avg_sq"].isfinite().all() and (state["exp_avg_sq"] > 0).all())
