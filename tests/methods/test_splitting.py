"""Schemes of the theorems, proposals, and that a proposed split really gains what it says."""

from __future__ import annotations

import pytest
import torch

import ramify
from ramify.methods.splitting import schemes
from tests.nets import SMOOTH, per_sample, prepared


@pytest.mark.parametrize("signed", [1.0, 1.3, 3.0])
@pytest.mark.parametrize("copies", [2, 3, 4])
@pytest.mark.parametrize("low, high", [(-2.0, 1.0), (-1.0, 5.0), (0.5, 2.0), (-3.0, -1.0)])
def test_schemes_keep_their_constraints_and_reach_their_gain(
    signed: float, copies: int, low: float, high: float
) -> None:
    for scheme in schemes(low, high, signed, (copies,)):
        weights = torch.tensor(scheme.weights, dtype=torch.float64)
        moves = torch.tensor(scheme.moves, dtype=torch.float64)
        assert weights.sum() == pytest.approx(1.0)
        assert weights.abs().sum() <= signed + 1e-12
        assert moves.norm(dim=1).max() <= 1.0
        assert (weights[:, None] * moves).sum(0).abs().max() < 1e-12
        form = (weights[:, None] * moves**2 * torch.tensor([low, high]).double()).sum()
        assert float(form) == pytest.approx(scheme.gain)


def test_binary_gain_of_c_1_is_the_smallest_eigenvalue() -> None:
    assert schemes(-2.0, 9.0, 1.0, (2,))[0].gain == -2.0
    assert schemes(-2.0, 9.0, 1.0, (2,))[0].weights == (0.5, 0.5)
    assert schemes(-2.0, 9.0, 3.0, (2,))[0].gain == -4.5


@pytest.mark.parametrize("name", list(SMOOTH))
@pytest.mark.parametrize("settings", [{}, {"signed": 3.0}, {"signed": 3.0, "copies": (3, 4)}])
def test_a_real_split_gains_what_was_proposed(name: str, settings: dict) -> None:
    net, batch = prepared(name)
    graph = ramify.trace(net, batch[0][:2])
    method = ramify.SplittingDescent(step=1e-3, eigen="exact", **settings)
    best = method.propose(graph, per_sample, [batch])[0]
    before = per_sample(net, batch).mean()
    ramify.apply(graph, [best.edit])
    gained = float(before - per_sample(net, batch).mean())
    assert best.gain > 0
    assert gained == pytest.approx(best.gain, rel=1e-2)


@pytest.mark.parametrize("name", list(SMOOTH))
def test_lanczos_proposes_what_the_exact_matrices_do(name: str) -> None:
    net, batch = prepared(name)
    graph = ramify.trace(net, batch[0][:2])
    exact = ramify.SplittingDescent(eigen="exact").propose(graph, per_sample, [batch])
    quick = ramify.SplittingDescent(tolerance=1e-7).propose(graph, per_sample, [batch])
    truth = {(p.edit.group, p.edit.channel): p.index for p in exact}
    radius = max(abs(index) for index in truth.values())
    assert len(truth) == len(quick) == len(exact)
    for proposal in quick:
        edit = proposal.edit
        assert proposal.index == pytest.approx(truth[edit.group, edit.channel], abs=1e-6 * radius)


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
    old = {p.edit.channel: p.index for p in first if p.edit.group == "a"}
    new = {p.edit.channel: p.index for p in second if p.edit.group == "a"}
    for place, channel in enumerate(order.tolist()):
        assert new[place] == pytest.approx(old[channel], rel=1e-9)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"signed": 0.5}, "at least 1"),
        ({"copies": (5,)}, "some of 2, 3 and 4"),
        ({"step": 0.0}, "positive length"),
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
