"""Sensitivity: trials on the model itself against copies that are really pruned."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ramify
from ramify.cost import graph_cost
from ramify.refit import refit_readers, sensitivity
from ramify.refit.player import Player
from ramify.refit.reference import Reference
from ramify.refit.trials import losses_of_cuts
from tests.checks import snapshot
from tests.nets import SMOOTH, per_sample
from tests.refit.networks import Residual


class InPlace(nn.Module):
    """Views that are written into, in front of the cuts and behind them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        x = self.a(x)
        x[:, :, 0].mul_(0.5)
        y = F.relu_(x)
        y = self.b(y + x)
        y.view(len(y), -1)[:, :1] += 1.0
        return self.c(F.relu_(y).mean((2, 3)))


class ByData(nn.Module):
    """What is run depends on the data."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.a(x))
        if x.sum() > 105:
            x = x + torch.relu(self.b(x))
        return self.c(x)


NETWORKS = {
    "residual with norms": (Residual, (3, 8, 8)),
    "in place": (InPlace, (3, 7, 7)),
    "by data": (ByData, (5,)),
    **{name: SMOOTH[name] for name in ("depthwise", "squeeze-excite", "attention", "similarity")},
}


def prepared(name, batches=3, samples=10):
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    net = build().double()
    data = [
        (torch.randn(samples, *shape).double() * (1 + n), torch.randint(0, 2, (samples,)))
        for n in range(batches)
    ]
    for x, _ in data:
        net(x)
    return net.eval(), data


def mean(net, data):
    with torch.no_grad():
        return float(torch.cat([per_sample(net, batch) for batch in data]).mean())


def order(graph, data, method):
    """The channels of each group, the first to go first."""
    found = {}
    for proposal in sorted(method.propose(graph, per_sample, data), key=lambda p: -p.value):
        found.setdefault(graph[proposal.edit.group].name, []).append(proposal.edit)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_it_equals_copies_that_are_really_pruned(name):
    net, data = prepared(name)
    before = snapshot(net)
    graph = ramify.trace(net, data[0][0][:1], also=[100 * data[0][0]])
    report = sensitivity(graph, per_sample, data, shares=(0.3, 0.6))
    assert snapshot(net) == before
    assert report.loss == pytest.approx(mean(net, data), abs=1e-12)
    assert {row.group for row in report.rows} == {g.name for g in graph.groups if g.can_prune}
    first = order(graph, data, ramify.Taylor())
    for row in report.rows:
        other = copy.deepcopy(net)
        its_graph = ramify.trace(other, data[0][0][:1], also=[100 * data[0][0]])
        gone = graph[row.group].width - row.width
        ramify.apply(its_graph, first[row.group][:gone])
        assert row.loss == pytest.approx(mean(other, data), abs=1e-9), row.group
        assert row.rise == pytest.approx(row.loss - report.loss)
        left = graph_cost(graph, first[row.group][:gone])
        assert row.saved == graph_cost(graph) - left


def test_with_refit_it_equals_copies_that_were_pruned_and_refitted():
    net, data = prepared("residual with norms")
    before = snapshot(net)
    graph = ramify.trace(net, data[0][0][:1])
    report = sensitivity(graph, per_sample, data, shares=(0.5,), groups=["stem"], refit=True)
    assert snapshot(net) == before
    edits = order(graph, data, ramify.refit.Takeover())["stem"][:4]
    other = copy.deepcopy(net)
    its_graph = ramify.trace(other, data[0][0][:1])
    reference = Reference(its_graph)
    reference.follow(its_graph, edits)
    ramify.apply(its_graph, edits)
    refit_readers(other, reference, data, per_sample)
    [row] = report.rows
    assert row.width == 4
    assert row.loss == pytest.approx(mean(other, data), abs=1e-9)


def test_what_lies_in_front_of_a_cut_is_run_once(monkeypatch):
    net, data = prepared("residual with norms", batches=4)
    graph = ramify.trace(net, data[0][0][:1])
    last = [[ramify.Prune("blocks.1.0", channel)] for channel in range(5)]
    played = []
    step = Player._step
    monkeypatch.setattr(Player, "_step", lambda self: played.append(self._at) or step(self))
    losses_of_cuts(graph, last, per_sample, data)
    assert played.count(0) == 3  # one run of each batch but the first, for five trials
    assert played.count(max(played)) == 5 * 3


def test_it_measures_on_samples_that_chose_nothing():
    net, data = prepared("depthwise")
    graph = ramify.trace(net, data[0][0][:1])
    report = sensitivity(graph, per_sample, data[:1], shares=(0.5,), held=data[1:])
    assert report.loss == pytest.approx(mean(net, data[1:]))


def test_a_plan_is_what_keep_takes():
    net, data = prepared("residual with norms")
    graph = ramify.trace(net, data[0][0][:1])
    report = sensitivity(graph, per_sample, data, shares=(s for s in (0.25, 0.5, 0.75)))
    most = sorted(row.rise for row in report.rows)[len(report.rows) // 2]
    plan = report.plan(most)
    assert list(plan) == [group.name for group in graph.groups if group.can_prune]
    for row in report.rows:
        if row.rise > most:
            assert plan[row.group] > row.width
    assert any(width < graph[name].width for name, width in plan.items())
    now = graph_cost(graph).macs
    graph = ramify.cut(graph, per_sample, data, budget={"macs": 0.9 * now}, keep=plan)
    assert all(graph[name].width >= width for name, width in plan.items())


def test_a_dearer_width_ends_the_plan_though_a_narrower_one_is_cheap():
    rows = [
        ramify.refit.SensitivityRow("a", share, width, rise, rise, ramify.cost.Cost(0, 0))
        for share, width, rise in ((0.25, 6, 0.0), (0.5, 4, 0.5), (0.75, 2, 0.1))
    ]
    report = ramify.Sensitivity(0.0, ramify.cost.Cost(9, 9), {"a": 8, "b": 3}, rows)
    assert report.plan(0.2) == {"a": 6, "b": 3}


def test_the_table_and_the_figure_have_a_row_a_group_and_a_column_a_share():
    pytest.importorskip("matplotlib")
    net, data = prepared("depthwise")
    graph = ramify.trace(net, data[0][0][:1])
    report = sensitivity(graph, per_sample, data, shares=(0.25, 0.75))
    lines = str(report).splitlines()
    assert len(lines) == 2 + len(report.widths)
    assert lines[1].split() == ["group", "width", "25", "%", "75", "%"]
    [axes, _] = report.figure().axes
    assert axes.images[0].get_array().shape == (len(report.widths), 2)


class Observed(nn.Sequential):
    """Observes its activations and counts its runs in eval mode too, as quantisation does."""

    def __init__(self):
        super().__init__(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
        self.register_buffer("largest", torch.zeros(()))
        self.runs = 0

    def forward(self, x):
        x = super().forward(x)
        self.largest.copy_(torch.maximum(self.largest, x.detach().amax()))
        self.runs += 1
        return x


@pytest.mark.parametrize("refit", [False, True])
def test_a_model_that_observes_its_runs_is_as_it_was(refit):
    net, x = Observed().eval(), torch.randn(12, 5)
    net(x)
    data = [(2 * x, torch.randint(4, (12,))) for _ in range(3)]
    graph, before = ramify.trace(net, x[:2]), snapshot(net)
    sensitivity(graph, per_sample, data, held=data[:2], refit=refit)
    assert snapshot(net) == before
    largest = float(net.largest)
    net(2 * x)
    assert net.largest > largest


def test_the_model_is_as_it_was_after_an_error():
    net, data = prepared("depthwise")
    before = snapshot(net)
    graph = ramify.trace(net, data[0][0][:1])

    def failing(model, batch):
        if model.p.weight.shape[0] < 4:
            raise ValueError("no")
        return per_sample(model, batch)

    with pytest.raises(ValueError, match="no"):
        sensitivity(graph, failing, data, shares=(0.5,))
    assert snapshot(net) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shares": ()}, "shares must be above 0 and below 1, but got none"),
        ({"shares": (0.5, 1.0)}, r"got \[1.0\]"),
        ({"shares": 0.5}, "shares must be above 0 and below 1, but got 0.5"),
        ({"shares": ("a",)}, "shares must be above 0 and below 1, but got"),
        ({"groups": ["fc"]}, "'fc' cannot be pruned"),
        ({"held": []}, "there is no batch"),
    ],
)
def test_what_cannot_be_tried_is_refused(options, said):
    net, data = prepared("depthwise")
    with pytest.raises(ramify.RamifyError, match=said):
        sensitivity(ramify.trace(net, data[0][0][:1]), per_sample, data, **options)


@pytest.mark.parametrize("call", [1, 3, 5, 8])
def test_a_loss_that_fails_is_reported_in_a_sentence_whenever_it_fails(call):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    graph, calls = ramify.trace(net, x[:1]), []

    def failing(model, batch):
        calls.append(1)
        if len(calls) == call:
            raise ValueError("the disk is gone")
        return per_sample(model, batch)

    with pytest.raises(ramify.RamifyError, match="the disk is gone"):
        sensitivity(graph, failing, [(x, y), (x + 1, y)])
