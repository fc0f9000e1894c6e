"""Which channels a cut takes: scores, rules, shares of layers, on networks that know something."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ramify
from ramify.cost import graph_cost
from ramify.methods import Taylor
from ramify.refit import Takeover, curvature, cut, takeover
from ramify.refit.curvature import reads_of
from tests.refit.trained import accuracy, batches, loss, mean, task


@pytest.mark.parametrize(
    "method", [ramify.Taylor(), ramify.L1(), ramify.GaussNewton(("prune",)), None]
)
def test_other_scores(method):
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    most = 0.6 * graph_cost(graph).macs
    graph = cut(graph, loss, batches(data), budget={"macs": most}, method=method)
    assert graph_cost(graph).macs <= most


def test_scores_without_a_unit_compare_between_layers():
    """A layer whose scales are a thousand times smaller is not emptied for that."""
    widths = []
    for raw in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(8, 24),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Linear(24, 24),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Linear(24, 4),
        )
        with torch.no_grad():
            net[1].weight.copy_(1e-3 * torch.rand(24)), net[4].weight.copy_(torch.rand(24))
            net[3].weight.mul_(1e3)
        x = torch.randn(256, 8)
        data = (x, net.eval()(x).argmax(1))
        graph = ramify.trace(net, x[:1])
        budget = {"macs": 0.6 * graph_cost(graph).macs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = cut(graph, loss, [data], budget=budget, method=ramify.BNScale(), raw=raw)
        widths.append(graph["3"].width)
    assert widths[0] < widths[1] == 24


def test_a_duplicate_is_free_and_its_twin_is_dear():
    net, data, _ = task()
    with torch.no_grad():  # channel 5 becomes a second channel 3
        net[0].weight[5], net[0].bias[5] = net[0].weight[3], net[0].bias[3]
    graph = ramify.trace(net, data[0][:1])
    found = [p for p in Takeover(1e-6).propose(graph, loss, batches(data)) if p.edit.group == "0"]
    first = found[0]
    assert first.edit.channel in (3, 5)
    assert first.gain > -1e-4
    other = next(p for p in found if p.edit.channel == 8 - first.edit.channel)
    assert other.gain < -1e-3


@pytest.mark.parametrize("method", [None, Taylor()])
def test_groups_that_are_not_asked_for_are_not_scored(method, monkeypatch):
    """What reads no channel of them takes neither time nor memory; the others' scores stay."""
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    every = Takeover().propose(graph, loss, batches(data))
    some = Takeover().propose(graph, loss, batches(data), ["2"])
    assert some == [p for p in every if p.edit.group == "2"]
    met = []

    def noting(*args):
        reads, samples = reads_of(*args)
        met.extend(read.reader.name for read in reads)
        return reads, samples

    monkeypatch.setattr(takeover, "reads_of", noting)
    cut(graph, loss, batches(data), method=method, budget={"params": 700}, groups=["2"])
    assert set(met) == {"4.weight"}


def test_groups_in_parts_have_the_same_scores(monkeypatch):
    """Moments that do not fit into memory at once are made in several passes."""
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    groups = [group for group in graph.groups if group.can_prune]
    assert list(curvature.groups_in_parts(graph, groups)) == [groups]
    at_once = Takeover().propose(graph, loss, batches(data))
    monkeypatch.setattr(curvature, "AT_ONCE", 0)
    assert list(curvature.groups_in_parts(graph, groups)) == [[group] for group in groups]
    assert len(groups) > 1
    assert Takeover().propose(graph, loss, batches(data)) == at_once


def test_costs_are_those_of_brute_force():
    """One removal: ½ tr(G ΔW A ΔWᵀ) at the best ΔW with a zero column, by least squares."""
    net, data, _ = task()
    net = net.double()
    data = (data[0].double(), data[1])
    graph = ramify.trace(net, data[0][:1])
    strength = 1e-3
    found = [
        p for p in Takeover(strength).propose(graph, loss, batches(data)) if p.edit.group == "2"
    ]
    reads = F.relu(net[2](F.relu(net[0](data[0])))).detach()
    out = net[4](reads)
    out.retain_grad()
    F.cross_entropy(out, data[1], reduction="sum").backward()
    gradients = out.grad.t() @ out.grad / len(reads)
    a = torch.cov(reads.t(), correction=0)
    a = a + strength * a.diagonal().mean() * torch.eye(24).double()
    weight, channel = net[4].weight.detach(), found[0].edit.channel
    costs = []
    for c in range(24):
        rest = [k for k in range(24) if k != c]
        change = torch.zeros_like(weight)
        change[:, c] = -weight[:, c]
        change[:, rest] = weight[:, [c]] @ torch.linalg.solve(a[rest][:, rest], a[rest][:, [c]]).t()
        costs.append(float(0.5 * torch.trace(gradients @ change @ a @ change.t())))
    assert channel == min(range(24), key=costs.__getitem__)
    assert -found[0].gain == pytest.approx(costs[channel], rel=1e-6)


def test_a_rule_says_which_channels_go():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    graph = cut(graph, loss, batches(data), rule=ramify.TopFraction(0.5, per_group=True))
    assert [graph["0"].width, graph["2"].width] == [12, 12]
    assert accuracy(net, data) > 0.9


class Unequal:
    """Every channel of the first layer is worth less than any of the second."""

    def propose(self, graph, loss, batches):
        worth = {("0", n): -float(n) for n in range(24)} | {("2", n): -99.0 - n for n in range(24)}
        price = ramify.cost.CostModel(graph)
        return [
            ramify.Proposal(edit, 0.0, price.added([edit]), score=value, graph=graph)
            for (name, channel), value in worth.items()
            for edit in [ramify.Prune(name, channel)]
        ]


@pytest.mark.filterwarnings("ignore:.*at chance:UserWarning", "ignore:.*lost 90 %:UserWarning")
@pytest.mark.parametrize("keep, widths", [(0.25, [6, 18]), (1, [1, 23])])
def test_what_a_floor_keeps_is_made_up_for_elsewhere(keep, widths):
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    cut_graph = cut(
        graph,
        loss,
        batches(data),
        rule=ramify.TopFraction(0.5),
        method=Unequal(),
        keep=keep,
        raw=True,
    )
    assert [cut_graph["0"].width, cut_graph["2"].width] == widths


def test_a_rule_bounds_what_a_budget_takes():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    most = 0.4 * graph_cost(graph).params
    rule = ramify.TopFraction(0.5, per_group=True)
    graph = cut(graph, loss, batches(data), budget={"params": most}, rule=rule)
    assert graph_cost(graph).params <= most
    assert min(graph["0"].width, graph["2"].width) >= 12


def test_tied_groups_under_a_rule():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    graph = cut(
        graph, loss, batches(data), rule=ramify.TopFraction(0.5), method=Unequal(), alike=["[02]"]
    )
    assert graph["0"].width == graph["2"].width == 12


def test_a_method_that_does_not_compare_layers_is_balanced_by_trials():
    """`Unequal` would empty the first layer; a trial shows that equal shares lose less."""
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    widths = {}
    for balance in (False, True):
        other = copy.deepcopy(net)
        graph = ramify.trace(other, data[0][:1])
        options = {"rule": ramify.TopFraction(0.5), "method": Unequal(), "keep": 0.2}
        graph = cut(graph, loss, batches(data), raw=True, balance=balance, **options)
        widths[balance] = [graph["0"].width, graph["2"].width], mean(other, data)
    assert widths[False][0] == [5, 19]
    assert sum(widths[True][0]) == 24
    assert widths[True][0][0] > 5
    assert widths[True][1] < widths[False][1]


def test_the_curvature_of_residuals_is_that_of_half_their_squares():
    """A layer that one output reads: the cost is the mean square that least squares leaves over."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 1)).double()
    x = torch.randn(512, 6, dtype=torch.float64)
    with torch.no_grad():
        read, outputs = net[:2](x), net(x)
        targets = outputs + torch.randn_like(outputs).sign()  # so that no residual is 0
    half = lambda model, batch: 0.5 * (model(batch[0]) - batch[1]).square().sum(1)  # noqa: E731
    graph = ramify.trace(net, x[:1])
    found = Takeover(1e-9, residuals=True).propose(graph, half, [(x, targets)])
    ranked = sorted(found, key=lambda proposal: -proposal.value)
    left, costs = list(range(10)), []
    for proposal in ranked:
        left.remove(proposal.edit.channel)
        design = torch.cat([read[:, left], torch.ones(512, 1)], 1)
        rest = outputs - design @ torch.linalg.lstsq(design, outputs).solution
        costs.append(0.5 * float(rest.square().mean()))
    gains = torch.tensor([-proposal.value for proposal in ranked], dtype=torch.float64)
    # Each channel costs at least as much as those before it; the sums agree where this holds.
    rising = torch.tensor(costs, dtype=torch.float64).diff(prepend=torch.zeros(1)).cummax(0).values
    assert gains.tolist() == pytest.approx(rising.tolist(), rel=1e-3)


def test_residuals_of_a_negative_loss_are_refused():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    below = lambda model, batch: loss(model, batch) - 1.0  # noqa: E731
    with pytest.raises(ramify.RamifyError, match="residuals=True takes losses that are not neg"):
        Takeover(residuals=True).propose(graph, below, batches(data))


def test_samples_that_a_network_is_sure_of_count_for_residuals():
    """The logits are 10 times as large: costs vanish, and those of residuals do not."""
    net, data, _ = task()
    with torch.no_grad():
        net[-1].weight.mul_(10), net[-1].bias.mul_(10)
    graph = ramify.trace(net, data[0][:1])
    sure = batches((data[0], net(data[0]).argmax(1)))
    plain, residual = (
        sum(-proposal.value for proposal in Takeover(residuals=flag).propose(graph, loss, sure))
        for flag in (False, True)
    )
    assert residual > 10 * plain


class OfNoGroups(Takeover):
    """A method of a user, whose `propose` takes what the protocol says."""

    def propose(self, graph, loss, batches):
        return super().propose(graph, loss, batches)


def test_a_users_takeover_is_balanced_within_the_groups_to_cut():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    method, budget = OfNoGroups(), {"macs": "60%"}
    graph = cut(graph, loss, batches(data), budget=budget, method=method, groups=["0"])
    assert graph["0"].width < 24
    assert graph["2"].width == 24


def test_complex_weights_are_balanced_in_their_own_order():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)).to(torch.complex64)
    x = torch.randn(64, 8, dtype=torch.complex64)
    power = lambda model, batch: model(batch).abs().square().mean(1)  # noqa: E731
    graph = ramify.trace(net, x[:1])
    graph = cut(graph, power, [x], budget={"macs": "50%"}, method=ramify.L1(), balance=True)
    assert graph["0"].width == 8


def test_residuals_of_a_batch_without_any_loss_are_finite_in_half_precision():
    net, data, _ = task()
    parts = batches(data)
    zero = lambda model, batch: (  # noqa: E731
        loss(model, batch) * float(batch[0] is not parts[0][0])
    ).half()
    graph = ramify.trace(net, data[0][:1])
    found = Takeover(residuals=True).propose(graph, zero, parts)
    assert torch.tensor([proposal.gain for proposal in found]).isfinite().all()


@pytest.mark.parametrize("resource", ["params", "macs"])
def test_balanced_within_a_budget(resource):
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    most = 0.4 * graph_cost(graph).of(resource)
    graph = cut(
        graph,
        loss,
        batches(data),
        budget={resource: most},
        method=Unequal(),
        raw=True,
        balance=True,
    )
    assert 0.8 * most < graph_cost(graph).of(resource) <= most
    assert min(graph["0"].width, graph["2"].width) > 5


def to_its_own_outputs(targets):
    return lambda model, batch: (model(batch[0]) - targets(batch[0])).square().mean(1)


def test_a_loss_without_a_gradient_says_nothing_of_channels():
    net, data, _ = task()
    full = copy.deepcopy(net)
    own = to_its_own_outputs(full)
    graph = ramify.trace(net, data[0][:1])
    with pytest.raises(ramify.RamifyError, match="does not change to first order"):
        cut(graph, own, batches(data), budget={"params": 500}, method=ramify.Taylor())
    reports = []
    with pytest.warns(UserWarning, match="chosen by L1"):
        graph = cut(graph, own, batches(data), budget={"params": 500}, log=reports.append)
    assert 450 < graph_cost(graph).params <= 500
    assert any("chosen by L1" in sentence for sentence in reports[0].warnings)
    assert accuracy(net, (data[0], full(data[0]).argmax(1))) > 0.9


def test_rounding_alone_says_nothing_of_channels():
    net, data, _ = task()
    double = copy.deepcopy(net).double()
    own = to_its_own_outputs(lambda x: double(x.double()).detach().float())
    graph = ramify.trace(net, data[0][:1])
    with pytest.warns(UserWarning, match="chosen by L1"):
        cut(graph, own, batches(data), budget={"params": 500})
