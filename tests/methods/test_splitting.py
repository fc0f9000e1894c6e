"""Proposals, and that a proposed split really gains what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.methods import Boosting, splitting
from ramify.probe.splitting_matrix import mean_product
from tests.nets import SMOOTH, per_sample, prepared


def kind_of(split: ramify.Split) -> str:
    """The scheme of a split: copies that move in ± pairs have no odd term."""
    weights = split.weights
    moves = torch.cat([part.reshape(len(weights), -1) for part in split.offsets.values()], dim=1)
    negative = sum(weight < 0 for weight in weights)
    if len(weights) == 3 and negative == 1 and moves[2].norm() > 0:
        return "triplet along both"
    return f"{len(weights)} copies, {negative} negative"


KINDS = {  # kind -> settings, steps, and by how much the smaller step divides the error
    "2 copies, 0 negative": ({}, (0.05, 0.005), 100),
    "2 copies, 1 negative": ({"signed": 10.0}, (0.01, 0.001), 10),
    "3 copies, 1 negative": ({"signed": 10.0, "copies": (3,)}, (0.05, 0.005), 100),
    "3 copies, 2 negative": ({"signed": 10.0, "copies": (3,)}, (0.05, 0.005), 100),
    "triplet along both": ({"signed": 2.0, "copies": (3,)}, (0.003, 0.0003), 10),
    "4 copies, 2 negative": ({"signed": 3.0, "copies": (4,)}, (0.05, 0.005), 100),
}
PLAIN = [kind for kind in KINDS if kind != "triplet along both"]
CASES = [(name, kind) for name in SMOOTH for kind in PLAIN]
CASES += [(name, "triplet along both") for name in ("perceptron", "squeeze-excite")]


def error_of_a_real_split(name: str, kind: str, step: float) -> float:
    """|ΔL - ε² G / 2| / ε² of the best proposal of a kind, applied."""
    net, batch = prepared(name)
    graph = ramify.trace(net, batch[0][:2])
    method = ramify.SplittingDescent(step=step, eigen="exact", **KINDS[kind][0])
    found = method.propose(graph, per_sample, [batch])
    best = next(p for p in found if isinstance(p.edit, ramify.Split) and kind_of(p.edit) == kind)
    assert best.gain > 0
    before = per_sample(net, batch).mean()
    ramify.apply(graph, [best.edit])
    gained = before - per_sample(net, batch).mean()
    return abs(float(gained.detach()) - best.gain) / step**2


@pytest.mark.parametrize("name, kind", CASES)
def test_a_real_split_gains_what_was_proposed(name: str, kind: str) -> None:
    """To second order exactly: the rest is ε⁴ where copies move in ± pairs, and else ε³."""
    _, steps, law = KINDS[kind]
    errors = [error_of_a_real_split(name, kind, step) for step in steps]
    assert 0.7 * law <= errors[0] / errors[1] <= 1.3 * law


def lengths_of(split: ramify.Split, net: nn.Module) -> tuple[float, float]:
    """How far the first copy moves, and the root mean square of its layers' lengths."""
    tensors, own, moved = dict(net.named_parameters()), [], []
    for name, part in split.offsets.items():
        own.append(tensors[name].detach()[split.channel].flatten())
        moved.append(part[0].flatten())
    layers = len({name.rpartition(".")[0] for name in split.offsets})
    return float(torch.cat(moved).norm()), float(torch.cat(own).norm()) / layers**0.5


@pytest.mark.parametrize("name", ["perceptron", "residual"])
@pytest.mark.parametrize("kind", [ramify.SplittingDescent, ramify.RandomSplit])
def test_a_step_may_be_a_share_of_the_channels_own_kernels(name: str, kind: type) -> None:
    net, batch = prepared(name)
    graph = ramify.trace(net, batch[0][:2])
    found = kind(step=0.2, unit="kernel").propose(graph, per_sample, [batch])
    assert found
    for proposal in found:
        moved, own = lengths_of(proposal.edit, net)
        assert moved == pytest.approx(0.2 * own, rel=1e-6)
        if kind is ramify.SplittingDescent:
            assert proposal.gain == pytest.approx(-0.5 * moved**2 * proposal.splitting_index)


def test_what_a_norm_cancels_changes_no_gain_of_a_relative_step() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3, eps=0.0))
    net = nn.Sequential(*net, nn.Tanh(), nn.Linear(3, 1)).double().eval()
    x = torch.randn(16, 4, dtype=torch.float64)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch) - batch[:, :1]).square().squeeze(1)  # type: ignore[no-any-return]

    method = ramify.SplittingDescent(step=0.2, unit="kernel", eigen="exact")
    gains = []
    for factor in (1.0, 7.0):
        with torch.no_grad():
            net[0].weight *= factor
            net[1].running_var *= factor**2
        proposals = method.propose(ramify.trace(net, x), loss, [x])
        gains.append({p.edit.channel: p.gain for p in proposals})
    assert gains[0] == pytest.approx(gains[1], rel=1e-9)


@pytest.mark.parametrize("kind", [ramify.SplittingDescent, ramify.RandomSplit, ramify.LineSearch])
def test_an_unknown_unit_is_refused(kind: type) -> None:
    with pytest.raises(
        ramify.RamifyError, match="unit must be one of absolute, kernel, but got 'mm'"
    ):
        kind(unit="mm")


@pytest.mark.parametrize("kind", [ramify.SplittingDescent, ramify.GradMax, Boosting])
def test_an_operation_without_a_second_derivative_is_named(kind: type) -> None:
    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = nn.Linear(2, 4), nn.Linear(5, 2)
            self.centres = nn.Parameter(torch.randn(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            units = torch.exp(-torch.cdist(torch.tanh(self.a(x)), self.centres))
            return torch.cdist(self.c(units), x)

    model, x = Distances(), torch.randn(3, 2)
    loss = lambda model, x: model(x).square().sum(1)  # noqa: E731
    graph = ramify.trace(model, x)
    with pytest.raises(ramify.RamifyError, match="_cdist_backward.*such as ramify.GaussNewton"):
        kind().propose(graph, loss, [x])


@pytest.mark.parametrize("name", list(SMOOTH))
def test_lanczos_proposes_what_the_exact_matrices_do(name: str) -> None:
    net, batch = prepared(name)
    graph = ramify.trace(net, batch[0][:2])
    exact = ramify.SplittingDescent(eigen="exact").propose(graph, per_sample, [batch])
    quick = ramify.SplittingDescent(tolerance=1e-7).propose(graph, per_sample, [batch])
    truth = {(p.edit.group, p.edit.channel): p.splitting_index for p in exact}
    radius = max(abs(index) for index in truth.values())
    assert len(truth) == len(quick) == len(exact)
    for proposal in quick:
        edit = proposal.edit
        assert proposal.splitting_index == pytest.approx(
            truth[edit.group, edit.channel], abs=1e-6 * radius
        )


def test_every_number_of_copies_is_a_choice_for_each_channel() -> None:
    net, batch = prepared("residual")
    graph = ramify.trace(net, batch[0][:1])
    settings = {"signed": 3.0, "copies": (2, 3, 4), "eigen": "exact"}
    one = ramify.SplittingDescent(**settings).propose(graph, per_sample, [batch])
    every = ramify.SplittingDescent(**settings, best_of_each=True).propose(
        graph, per_sample, [batch]
    )
    choices: dict[tuple[str, int], dict[int, ramify.Proposal]] = {}
    for proposal in every:
        edit = proposal.edit
        of_channel = choices.setdefault((edit.group, edit.channel), {})
        assert len(edit.weights) not in of_channel
        of_channel[len(edit.weights)] = proposal
    assert len(choices) == len(one)
    assert sum(map(len, choices.values())) == len(every) > len(one)
    for proposal in one:
        of_channel = choices[proposal.edit.group, proposal.edit.channel]
        assert proposal.gain == max(choice.gain for choice in of_channel.values())
        costs = [of_channel[m].cost.params for m in sorted(of_channel)]
        assert costs == sorted(set(costs))


def test_every_splittable_channel_has_a_proposal_with_its_true_cost() -> None:
    net, batch = prepared("residual")
    graph = ramify.trace(net, batch[0][:1])
    proposals = ramify.SplittingDescent().propose(graph, per_sample, [batch])
    assert len(proposals) == sum(group.width for group in graph.groups if group.can_split)
    assert [p.gain for p in proposals] == sorted((p.gain for p in proposals), reverse=True)
    before = sum(p.numel() for p in net.parameters())
    ramify.apply(graph, [proposals[0].edit])
    assert sum(p.numel() for p in net.parameters()) - before == proposals[0].cost.params


def test_channels_permute_with_their_proposals() -> None:
    net, batch = prepared("perceptron")
    graph = ramify.trace(net, batch[0])
    order = torch.tensor([3, 1, 4, 0, 2])
    first = ramify.SplittingDescent(eigen="exact").propose(graph, per_sample, [batch])
    with torch.no_grad():
        for parameter in (net.a.weight, net.a.bias):
            parameter.copy_(parameter[order])
        net.b.weight.copy_(net.b.weight[:, order])
    second = ramify.SplittingDescent(eigen="exact").propose(graph, per_sample, [batch])
    old = {p.edit.channel: p.splitting_index for p in first if p.edit.group == "a"}
    new = {p.edit.channel: p.splitting_index for p in second if p.edit.group == "a"}
    for place, channel in enumerate(order.tolist()):
        assert new[place] == pytest.approx(old[channel], rel=1e-9)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"signed": 0.5}, "at least 1"),
        ({"copies": (5,)}, "some of 2, 3 and 4"),
        ({"step": 0.0}, "step must be positive"),
        ({"step": float("nan")}, "step must be positive"),
        ({"signed": float("nan")}, r"signed \(c in S3D\) must"),
        ({"surrogate": -3.0}, "surrogate must be positive"),
        ({"eigen": "power"}, "'lanczos' or 'exact'"),
    ],
)
def test_settings_are_checked(settings: dict, message: str) -> None:
    with pytest.raises(ramify.RamifyError, match=message):
        ramify.SplittingDescent(**settings)


def test_a_frozen_group_has_no_matrix() -> None:
    net, batch = prepared("perceptron")
    graph = ramify.trace(net, batch[0])
    with pytest.raises(ramify.RamifyError, match="'c' has no splitting matrix: it is an output"):
        ramify.splitting_matrix(graph, "c", per_sample, [batch])


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


def test_the_index_is_the_gain_of_the_theorems_so_that_a_threshold_takes_what_pays() -> None:
    """Where every splitting matrix is positive definite, only negative copies gain."""
    net = nn.Sequential(nn.Linear(2, 3), Square(), nn.Linear(3, 1)).double()
    nn.init.constant_(net[2].weight, 1.0)
    x = torch.randn(20, 2).double()
    graph = ramify.trace(net, x)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch)[:, 0] + 9).square()

    found = ramify.SplittingDescent(signed=3.0, step=0.1).propose(graph, loss, [x])
    assert len(ramify.Threshold().select(found)) == 3
    for proposal in found:
        assert proposal.splitting_index is not None
        assert proposal.gain == pytest.approx(-0.005 * proposal.splitting_index)
    plain = ramify.SplittingDescent(step=0.1).propose(graph, loss, [x])
    assert ramify.Threshold().select(plain) == []


class Left(nn.Module):
    """What `torch.where` leaves out divides by zero: the output is finite, its gradient is not."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), x / 0.0, x).tanh()


@pytest.mark.parametrize(
    "method",
    [ramify.SplittingDescent(), ramify.SplittingDescent(eigen="exact"), ramify.LineSearch()],
)
def test_a_gradient_that_is_not_finite_where_the_loss_is_gets_a_sentence(
    method: ramify.Method,
) -> None:
    net = nn.Sequential(nn.Linear(3, 4), Left(), nn.Linear(4, 1))
    x = torch.randn(8, 3)
    with pytest.raises(ramify.RamifyError, match="is NaN or infinite, although the loss"):
        method.propose(ramify.trace(net, x), lambda model, x: model(x)[:, 0], [x])


def test_the_matrix_of_one_group_takes_as_many_products_as_its_own_kernels_have_entries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = nn.Sequential(nn.Linear(2, 9), nn.Tanh(), nn.Linear(9, 4), nn.Tanh(), nn.Linear(4, 3))
    batch = (torch.randn(6, 2), torch.randint(0, 3, (6,)))
    widths: list[list[int]] = []

    def counted(operators: Any, vectors: Any) -> Any:
        widths.append([len(vector) for vector in vectors])
        return mean_product(operators, vectors)

    monkeypatch.setattr(splitting, "mean_product", counted)
    matrix = ramify.splitting_matrix(ramify.trace(net, batch[0]), "0", per_sample, [batch])
    assert matrix.shape == (9, 3, 3)
    assert widths == [[9]] * 3
