"""Methods where numbers are complex, not finite, or too large for their squares."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ramify
from ramify import RamifyError
from ramify.methods import Auto
from ramify.refit.takeover import Takeover

METHODS = [
    ramify.SplittingDescent(),
    ramify.GaussNewton(epochs=2),
    ramify.GradMax(),
    ramify.Taylor(),
    Takeover(),
]


class Complex(nn.Module):
    """Complex weights, real outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(4, 6, dtype=torch.complex64)
        self.b = nn.Linear(6, 3, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x.to(torch.complex64)).tanh()).abs()
        return out


def loss(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def sample() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(16, 4, generator=draw), torch.randint(0, 3, (16,), generator=draw)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_what_complex_channels_are_worth_to_the_loss_is_not_guessed(method: Any) -> None:
    graph = ramify.trace(Complex(), sample()[0])
    with pytest.raises(RamifyError, match=r"'a.weight' is complex, .* use ramify.L1"):
        method.propose(graph, loss, [sample()])


def test_the_size_of_a_complex_weight_has_both_parts() -> None:
    model = Complex()
    sizes = torch.tensor([0.5, 4.0, 0.3, 3.0, 6.0, 5.0])
    model.a.weight.data = 1j * sizes[:, None].expand(6, 4)
    found = ramify.L1().propose(ramify.trace(model, sample()[0]), loss, [])
    assert [p.edit.channel for p in found] == sizes.argsort().tolist()
    graph = ramify.trace(model, sample()[0])
    cut = ramify.cut(graph, loss, [sample()], method=ramify.L1(), budget={"params": "70%"})
    assert cut["a"].width < 6


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_no_proposal_is_worth_what_is_no_number(method: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    x, y = sample()
    graph = ramify.trace(model.double(), x.double())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if isinstance(method, (ramify.GaussNewton, ramify.GradMax, Takeover)):
        with pytest.raises(RamifyError, match="too large"):
            method.propose(graph, loss, [(1e200 * x.double(), y)])
    else:
        found = method.propose(graph, loss, [(1e200 * x.double(), y)])
        values = torch.tensor([[p.gain, p.value] for p in found], dtype=torch.float64)
        assert bool(values.isfinite().all())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_sizes_of_weights_that_are_not_finite_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    graph = ramify.trace(model, sample()[0])
    model[0].weight.data[1, 2] = torch.nan
    with pytest.raises(RamifyError, match="the value of an edit .* is nan"):
        ramify.L1().propose(graph, loss, [])


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_neurons_of_data_in_another_unit_are_the_same(size: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = sample()
    graph = ramify.trace(model, x.double())
    model[0].bias.data.zero_()
    wanted = ramify.GradMax(lr=1.0).propose(graph, loss, [(x.double(), y)])
    model[0].weight.data /= size
    found = ramify.GradMax(lr=1.0).propose(graph, loss, [(size * x.double(), y)])
    assert len(found) == len(wanted)


class Pooled(nn.Module):
    """Mean and standard deviation over time, as in networks that recognise speakers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv1d(4, 6, 3), nn.Conv1d(6, 5, 1)
        self.c = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).relu()
        out: Tensor = self.c(torch.cat([x.mean(2), x.std(2)], 1))
        return out


def test_new_neurons_leave_out_a_layer_whose_deviation_is_pooled() -> None:
    x, y = torch.randn(20, 4, 9), torch.randint(0, 3, (20,))
    graph = ramify.trace(Pooled(), x[:2])
    assert graph["b"].can_split
    for method in (ramify.GradMax(), Auto()):
        names = {
            p.edit.group for p in method.propose(graph, loss, [(x, y)]) if 0.0 in p.edit.weights
        }
        assert names == {"a"}
    with pytest.raises(RamifyError, match="'b' cannot get new neurons .* not finite"):
        ramify.GradMax(groups=("b",)).propose(graph, loss, [(x, y)])
