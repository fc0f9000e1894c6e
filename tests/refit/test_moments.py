"""Sums over rows: in single precision they keep what varies, however large the means are."""

import warnings

import pytest
import torch
from torch import nn

import ramify
from ramify.refit import ridge
from ramify.refit.moments import Moments, over_ranks
from ramify.refit.ridge import covariances


def summed(rows, targets, parts):
    sums = Moments.zeros(rows.shape[0], rows.shape[1], targets.shape[1], rows.device)
    for phi, y in zip(rows.tensor_split(parts, 2), targets.tensor_split(parts, 2), strict=True):
        sums.add(phi, y)
    return over_ranks([sums])[0]


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4])
def test_covariances_are_those_of_double_precision(mean):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 9, 400, generator=draw) + mean
    targets = torch.randn(2, 3, 400, generator=draw) - mean
    targets[:, 0] += rows[:, 0]
    made = covariances(summed(rows, targets, 4), centred=True)
    x, y = (t.double() - t.double().mean(2, keepdim=True) for t in (rows, targets))
    for found, other in zip(made, (x, y), strict=True):
        assert torch.allclose(found, x @ other.transpose(1, 2) / 400, rtol=0, atol=1e-5)


def test_all_sums_are_about_zero_and_those_of_the_rows():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(1, 5, 70, generator=draw, dtype=torch.float64) + 3
    targets = torch.randn(1, 2, 70, generator=draw, dtype=torch.float64) - 7
    sums = summed(rows, targets, 3)
    wanted = (
        torch.tensor(70.0).double(),
        rows.sum(2),
        targets.sum(2),
        rows @ rows.transpose(1, 2),
        rows @ targets.transpose(1, 2),
        targets.square().sum(2),
    )
    for found, value in zip(sums.parts(), wanted, strict=True):
        assert torch.allclose(found, value, rtol=1e-12)


def test_a_cut_keeps_what_a_network_with_large_hidden_means_makes():
    draw = torch.Generator().manual_seed(1)
    x, noise = torch.randn(128, 8, generator=draw), torch.randn(128, 4, generator=draw)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 4))
    with torch.no_grad():  # every unit is always on: eight of them can make what all make
        model[0].bias += 1e4
        model[2].bias -= 1e4 * model[2].weight.sum(1)
        batches = [(x, model(x) + 0.1 * noise)]

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean(1)

    before = float(loss(model, batches[0]).mean().detach())
    graph = ramify.trace(model, x[:2])
    ramify.cut(graph, loss, batches, budget={"params": 150})
    assert model[0].out_features < 12
    after = float(loss(model, batches[0]).mean().detach())
    assert abs(after / before - 1) < 1e-3


@pytest.mark.parametrize("size", [1e-30, 1e20, 1e37])
def test_squares_that_single_precision_has_no_room_for(size):
    draw = torch.Generator().manual_seed(0)
    rows, targets = (torch.randn(1, n, 100, generator=draw) for n in (5, 2))
    wanted = summed(rows, targets, 4)
    found = summed(size * rows, targets, 4)
    exact = float(torch.tensor(size))
    assert torch.allclose(found.xx, wanted.xx * exact**2, rtol=1e-5, atol=0)
    assert torch.allclose(found.xy, wanted.xy * exact, rtol=1e-4, atol=1e-5 * size)


@pytest.mark.parametrize("inputs", ["zeros", "ones", "one sample"])
def test_what_is_missed_of_constant_targets_is_a_share_of_their_size(inputs):
    draw = torch.Generator().manual_seed(1)
    x = {"zeros": torch.zeros(32, 4), "ones": torch.ones(32, 4), "one sample": torch.ones(1, 4)}
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    labels, reports = torch.randint(0, 3, (len(x[inputs]),), generator=draw), []
    batches = [(x[inputs].double(), labels)]

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    graph = ramify.trace(model.double(), batches[0][0])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not look at its input")
        ramify.cut(graph, loss, batches, budget={"params": "60%"}, log=reports.append)
    assert reports[0].refitted
    for reader in reports[0].refitted:
        assert 0 <= reader.after <= reader.before < 100


def test_activations_that_cannot_be_squared_are_named():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    batches = [(1e300 * torch.randn(32, 4).double(), torch.randint(0, 3, (32,)))]

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    graph = ramify.trace(model, torch.randn(2, 4).double())
    with pytest.raises(ramify.RamifyError, match="'0' is nan.*too large"):
        ramify.cut(graph, loss, batches, budget={"params": "60%"})
    assert model[0].out_features == 8


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_solved_for_in_parts(monkeypatch, bias):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 6, 50, generator=draw, dtype=torch.float64)
    weight = torch.randn(2, 6, 7, generator=draw, dtype=torch.float64)
    targets = weight.transpose(1, 2) @ rows + torch.randn(2, 7, 50, generator=draw).double() + 1
    folds = [
        summed(rows[:, :, part], targets[:, :, part], 1) for part in (slice(30), slice(30, 50))
    ]
    shift = torch.zeros(2, 7).double() if bias else None
    at_once = ridge.solve(folds, weight, shift)
    monkeypatch.setattr(ridge, "OUTPUTS", 3)
    in_parts = ridge.solve(folds, weight, shift)
    assert at_once.after < at_once.before
    assert torch.allclose(at_once.weight, in_parts.weight, rtol=0, atol=1e-13)
    assert torch.allclose(at_once.bias, in_parts.bias, rtol=0, atol=1e-13)
    for one in ("strength", "before", "after"):
        assert getattr(at_once, one) == pytest.approx(getattr(in_parts, one), rel=1e-12)
