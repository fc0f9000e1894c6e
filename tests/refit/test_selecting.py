"""When a cut tries several selections of channels, and which of them it takes."""

from __future__ import annotations

import copy
import math
import warnings
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

import ramify
from ramify.cost import graph_cost
from ramify.errors import Diverged, OutOfReach, RamifyError
from ramify.refit import cut, cutting, selecting
from ramify.refit.outcome import state_of
from tests.refit.trained import batches, loss, mean, only_once, task


def tried(monkeypatch):
    """An entry for each selection that is tried from now on."""
    seen, outcome_of = [], selecting.outcome_of

    def counted(*arguments, **named):
        seen.append(arguments)
        return outcome_of(*arguments, **named)

    monkeypatch.setattr(selecting, "outcome_of", counted)
    return seen


def loss_after(net, data, **options):
    """The loss after a cut to a quarter of the MACs."""
    reports = []
    graph = ramify.trace(copy.deepcopy(net), data[0][:1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cut(graph, loss, batches(data), budget={"macs": "25%"}, log=reports.append, **options)
    return reports[0].loss_after


def test_a_cut_that_hurts_is_chosen_from_several(monkeypatch):
    net, data, _ = task()
    first = loss_after(net, data, balance=False)
    seen = tried(monkeypatch)
    best = loss_after(net, data)
    assert 3 <= len(seen) <= 6
    assert best <= first
    assert best == loss_after(net, data, balance=True)


def test_a_harmless_cut_is_the_first_selection(monkeypatch):
    """Each unit of a hidden layer is there twice, so that half of them cost nothing."""
    net, data, _ = task()
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight[12:] = layer.weight[:12]
            layer.bias[12:] = layer.bias[:12]
    labels = net(data[0]).argmax(1)
    seen = tried(monkeypatch)
    graph = ramify.trace(net, data[0][:1])
    cut(graph, loss, batches((data[0], labels)), budget={"macs": "40%"})
    assert len(seen) == 1


def test_a_precise_regression_that_becomes_less_precise_is_chosen_from_several(monkeypatch):
    """The loss rises by less than 1 % of the variance of the targets, and to several times."""
    torch.manual_seed(0)
    x = torch.rand(512, 3) * 2 - 1
    sizes = ((3, 24), (24, 24), (24, 2))
    layers = [part for size in sizes for part in (nn.Linear(*size), nn.Tanh())][:-1]
    net = nn.Sequential(*layers)
    with torch.no_grad():
        net[0].weight.mul_(3), net[2].weight.mul_(3)
        targets = net(x)
        targets = targets + 0.05 * targets.std(0) * torch.randn_like(targets)
    square = lambda model, batch: (model(batch[0]) - batch[1]).square().mean(1)  # noqa: E731
    reports, counts = [], []
    for balance in (False, None):
        seen = tried(monkeypatch)
        graph = ramify.trace(copy.deepcopy(net), x[:1])
        options = {"budget": {"macs": "40%"}, "balance": balance, "log": reports.append}
        cut(graph, square, batches((x, targets)), **options)
        counts.append(len(seen))
    first, best = reports
    assert 2 * first.loss_before < first.loss_after
    assert first.loss_after - first.loss_before < 0.01 * float(targets.var(0).mean())
    assert counts[0] == 1 < counts[1]
    assert best.loss_after < first.loss_after


@pytest.mark.parametrize(
    ("start", "after", "error", "several"),
    [
        (0.004, 0.010, 0.001, True),
        (0.004, 0.010, 0.002, False),  # by three standard errors: that of a few samples
        (0.004, 0.0045, 0.0001, False),  # by an eighth
        (0.0, 0.006, 0.001, True),
        (0.5, 0.508, 0.001, False),
        (0.5, 0.520, 0.01, True),  # by more than 1 % of what was learned
        (-0.1, -0.09, 0.0001, False),
    ],
)
def test_when_others_are_tried(start, after, error, several, monkeypatch):
    net, data, _ = task()
    outcome_of, seen = selecting.outcome_of, []

    def scripted(*arguments, **named):
        seen.append(arguments)
        found = outcome_of(*arguments, **named)
        return replace(found, loss=after, sample_loss=after, start=start, error=error)

    monkeypatch.setattr(selecting, "outcome_of", scripted)
    cut(ramify.trace(net, data[0][:1]), loss, batches(data), budget={"macs": "60%"})
    assert (len(seen) > 1) == several


def test_the_users_own_check_is_asked_of_the_first_and_of_the_best_selection(monkeypatch):
    """Of several selections, one may pass a check by luck; and a check may take long."""
    net, data, _ = task()
    losses, outcome_of = iter([1.0, 0.7, 0.4]), selecting.outcome_of
    outcomes, judged = [], []

    def scripted(*arguments, **named):
        lost = next(losses, 0.5)
        found = outcome_of(*arguments, **named)
        outcomes.append(replace(found, loss=lost, sample_loss=lost))
        return outcomes[-1]

    def accept(model):
        judged.append(state_of(model))
        return False

    monkeypatch.setattr(selecting, "outcome_of", scripted)
    graph = ramify.trace(net, data[0][:1])
    with pytest.raises(ramify.RamifyError, match="is not accepted; it has a loss of 0.4:"):
        cut(graph, loss, batches(data), budget={"macs": "25%"}, accept=accept)
    assert len(outcomes) > 3
    for own, tried in zip(judged, (outcomes[0], outcomes[2]), strict=True):
        for name, tensor in tried.state.items():
            assert torch.equal(own[name], tensor), name


def test_the_users_own_check_is_not_asked_again_nor_of_a_loss_that_is_too_high(monkeypatch):
    net, data, _ = task()
    before, seen, judged = mean(net, data), tried(monkeypatch), []

    def accept(model):
        judged.append((model[0].out_features, model[2].out_features, mean(model, data)))
        return True

    graph = ramify.trace(net, data[0][:1])
    cut(graph, loss, batches(data), budget={"loss": 0.05}, accept=accept)
    assert 2 <= len(judged) == len(set(judged)) < len(seen)
    assert max(lost for *_, lost in judged) <= before + 0.05 + 1e-6


@pytest.mark.parametrize("failing", [0, 1])
def test_a_selection_whose_loss_is_not_finite_is_not_taken(failing, monkeypatch):
    """As of -log(p) of a prediction that becomes negative: whichever it is, others are tried."""
    net, data, _ = task()
    number, outcome_of = iter(range(9)), selecting.outcome_of

    def scripted(*arguments, **named):
        if next(number) == failing:
            raise Diverged("the loss of sample 3 is nan: lower the learning rate")
        return outcome_of(*arguments, **named)

    monkeypatch.setattr(selecting, "outcome_of", scripted)
    assert loss_after(net, data) < 1.0
    assert next(number) >= 3


@pytest.mark.parametrize("balance", [None, False])
def test_a_cut_model_without_a_finite_loss_is_refused_as_such(balance):
    net, data, _ = task()
    only_full = lambda model, batch: loss(model, batch) / (model[0].out_features == 24)  # noqa: E731
    graph = ramify.trace(net, data[0][:1])
    options = {"budget": {"macs": "25%"}, "balance": balance}
    said = (
        r"the cut model has a loss that is not finite \(the loss of sample 0 is inf\): give a lar"
    )
    with pytest.raises(Diverged, match=said):
        cut(graph, only_full, batches(data), **options)
    infinite = lambda batch: torch.where(batch[1] == 1, torch.inf, 0.0)  # noqa: E731
    never = lambda model, batch: loss(model, batch) + infinite(batch)  # noqa: E731
    with pytest.raises(Diverged, match="the loss of sample [0-9]+ is inf: lower"):
        cut(graph, never, batches(data), method=ramify.L1(), **options)
    assert graph["0"].width == 24


@pytest.mark.parametrize("options", [{"budget": {"macs": "25%"}}, {"accept": lambda model: True}])
def test_selections_out_of_reach_are_left_out_and_other_errors_are_raised(options, monkeypatch):
    """While more equal shares are chosen, or a smaller size that the user would accept."""
    net, data, _ = task()
    choose = selecting.choose_channels
    for error in (OutOfReach("too small"), RamifyError("a mistake")):
        monkeypatch.setattr(selecting, "choose_channels", only_once(choose, error))
        graph = ramify.trace(copy.deepcopy(net), data[0][:1])
        raised = nullcontext() if isinstance(error, OutOfReach) else pytest.raises(RamifyError)
        with raised as found:
            cut(graph, loss, batches(data), **options)
        assert found is None or found.value is error


def test_a_size_without_a_finite_loss_is_too_small():
    net, data, _ = task()
    wide = lambda model: model[0].out_features + model[2].out_features >= 36  # noqa: E731
    bounded = lambda model, batch: loss(model, batch) / wide(model)  # noqa: E731
    graph = ramify.trace(net, data[0][:1])
    cut(graph, bounded, batches(data), accept=lambda model: True)
    assert wide(net)
    assert net[0].out_features + net[2].out_features < 48


def test_a_negative_loss_is_cut_without_residuals():
    """Such a loss has no residuals; more equal shares are tried all the same."""
    net, data, _ = task()
    below = lambda model, batch: loss(model, batch) - 5.0  # noqa: E731
    graph = ramify.trace(net, data[0][:1])
    before = graph_cost(graph).macs
    graph = cut(graph, below, batches(data), budget={"macs": "40%"}, balance=True)
    assert graph_cost(graph).macs <= 0.4 * before


def test_without_a_budget_as_many_channels_go_as_the_rule_selects():
    """Other shares and another curvature select fewer by this rule, which then lose less."""
    net, data, _ = task()
    widths = []
    for balance in (False, None):
        graph = ramify.trace(copy.deepcopy(net), data[0][:1])
        rule = ramify.TradeOff(params=1e-4)
        graph = cut(graph, loss, batches(data), rule=rule, balance=balance)
        widths.append(sum(group.width for group in graph.groups))
    assert widths[0] < 52
    assert widths[1] <= widths[0]


def test_other_selections_are_tried_where_chance_is_unknown(monkeypatch):
    """A rise of the loss that is harmless if it is known how much was learned."""
    net, data, _ = task()
    counts = []
    for _ in range(2):
        seen = tried(monkeypatch)
        graph = ramify.trace(copy.deepcopy(net), data[0][:1])
        cut(graph, loss, batches(data), budget={"macs": "80%"})
        counts.append(len(seen))
        monkeypatch.setattr(cutting, "constant_loss", lambda *_: math.inf)
    assert counts[0] == 1
    assert counts[1] > 1
