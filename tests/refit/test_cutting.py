"""Cut: budgets, floors, ties, trials and what is said, on networks that know something."""

from __future__ import annotations

import copy
import itertools
import warnings
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

import ramify
from ramify.cost import graph_cost
from ramify.errors import OutOfReach, RamifyError
from ramify.refit import CutReport, cut
from ramify.refit.choosing import choose_channels
from tests.refit.networks import Residual
from tests.refit.trained import accuracy, batches, loss, mean, task


@pytest.mark.parametrize("resource", ["params", "macs", "flops", "energy"])
def test_budgets_are_kept_and_nearly_spent(resource):
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    most = 0.6 * graph_cost(graph).of(resource)
    graph = cut(graph, loss, batches(data), budget={resource: most})
    assert 0.9 * most < graph_cost(graph).of(resource) <= most
    assert accuracy(net, data) > 0.9


def test_several_budgets_hold_together():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    now = graph_cost(graph)
    graph = cut(
        graph, loss, batches(data), budget={"macs": 0.7 * now.macs, "params": 0.5 * now.params}
    )
    after = graph_cost(graph)
    assert after.macs <= 0.7 * now.macs
    assert after.params <= 0.5 * now.params


def test_latency_is_a_budget(monkeypatch):
    """The knapsack is asked for what the measured milliseconds must fall by, beside what counts."""
    asked = []

    class Stub:
        def __init__(self, **options):
            asked.append(options)

        def select(self, offered):
            return offered[:3]

    monkeypatch.setattr("ramify.refit.choosing.Knapsack", Stub)
    measured = SimpleNamespace(median=5.0)
    for module in ("choosing", "cutting"):
        monkeypatch.setattr(f"ramify.refit.{module}.measure_edited", lambda graph: measured)
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    now, reports = graph_cost(graph).params, []
    budget = {"latency": 3.0, "params": now - 10}
    graph = cut(graph, loss, batches(data), budget=budget, log=reports.append)
    [told] = reports[0].warnings
    assert told.startswith("the cut network takes 5 ms and the budget is 3 ms: ")
    assert asked[0]["latency"] == -2.0
    assert asked[0]["milliseconds"] == 5.0  # both are of one measurement
    assert asked[0]["params"] == -10
    assert sum(group.width for group in graph.groups) == 24 + 24 + 4 - 3


def test_milliseconds_of_a_network_that_nothing_can_be_removed_from_are_measured_once(monkeypatch):
    """Two measurements of one network differ, as if something had been removed."""
    measured = Mock(return_value=SimpleNamespace(median=1020.0))
    monkeypatch.setattr("ramify.refit.choosing.measure_edited", measured)
    net, data, _ = task()
    said = "of latency is 0.5 ms, the network takes 1,020 ms on .*, and none of its channels can be"
    with pytest.raises(RamifyError, match=said):
        choose_channels(ramify.trace(net, data[0][:1]), [], [], {"latency": 0.5})
    measured.assert_called_once()


def test_the_report_of_a_cut_to_milliseconds_has_them():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    reports = []
    with pytest.warns(UserWarning, match="nothing was cut, .* of 10,000 ms on the inputs"):
        cut(graph, loss, batches(data), budget={"latency": 1e4}, log=reports.append)
    before, after = reports[0].latency
    assert 0 < before == after < 1e4  # nothing was cut
    assert f", {before:.3g} -> {after:.3g} ms" in str(reports[0])
    graph = cut(graph, loss, batches(data), budget={"macs": "50%"}, log=reports.append)
    assert reports[1].latency is None
    assert " ms" not in str(reports[1])


def test_nothing_is_said_of_chance_where_one_sample_measures_it():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    held = [tuple(part[:1] for part in data)]
    reports = []
    cut(graph, loss, batches(data), budget={"macs": "90%"}, held=held, log=reports.append)
    assert not reports[0].warnings


def test_milliseconds_out_of_reach_are_told_in_milliseconds():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    with pytest.raises(RamifyError, match=r"is 1e-05 ms, and .* still takes 0\.\d+ ms here"):
        cut(graph, loss, batches(data), budget={"latency": 1e-5})


def test_milliseconds_that_are_predicted_out_of_reach_are_told_so_too(monkeypatch):
    """The prediction refuses what a measurement would allow: the sentence is of the budget.

    Another error is raised as it is.
    """

    def refused(self, offered):
        raise error

    monkeypatch.setattr("ramify.refit.choosing.Knapsack.select", refused)
    times = iter([1.0, 0.5, 1.0])
    monkeypatch.setattr(
        "ramify.refit.choosing.measure_edited", lambda *_: SimpleNamespace(median=next(times))
    )
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    said = r"is 0\.6 ms, and no shape .* takes 1 ms on the inputs .* it takes 0\.5 ms here"
    error = OutOfReach("no selection is within the budgets, which change latency by -0.5")
    with pytest.raises(OutOfReach, match=said):
        cut(graph, loss, batches(data), budget={"latency": 0.6})
    error = RamifyError("a mistake")
    with pytest.raises(RamifyError, match="a mistake"):
        cut(graph, loss, batches(data), budget={"latency": 0.6})


def test_refit_keeps_more_than_cutting_alone():
    net, data, _ = task()
    other = copy.deepcopy(net)
    for model, refit in ((net, True), (other, False)):
        graph = ramify.trace(model, data[0][:1])
        most = 0.4 * graph_cost(graph).macs
        cut(graph, loss, batches(data), budget={"macs": most}, refit=refit)
    assert mean(net, data) < mean(other, data)


def test_within_its_budget_nothing_changes():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    state = copy.deepcopy(net.state_dict())
    after = cut(graph, loss, batches(data), budget={"macs": 2 * graph_cost(graph).macs})
    assert after is graph
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("keep, least", [(0.5, 12), (9, 9), ({"0": 20}, 20)])
def test_floors(keep, least):
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    graph = cut(
        graph, loss, batches(data), budget={"macs": 0.65 * graph_cost(graph).macs}, keep=keep
    )
    assert graph["0"].width >= least
    if not isinstance(keep, dict):
        assert graph["2"].width >= least


def test_floors_that_forbid_the_budget_are_refused():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    state = copy.deepcopy(net.state_dict())
    with pytest.raises(OutOfReach, match="give a larger budget"):
        cut(graph, loss, batches(data), budget={"macs": 0.1 * graph_cost(graph).macs}, keep=0.9)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_multiples():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    budget = {"macs": 0.5 * graph_cost(graph).macs}
    graph = cut(graph, loss, batches(data), budget=budget, multiple_of=8)
    assert graph["0"].width % 8 == graph["2"].width % 8 == 0


@pytest.mark.parametrize("multiple", [1, 4])
def test_alike_groups_keep_one_width(multiple):
    torch.manual_seed(0)
    net = Residual()
    x = torch.randn(64, 3, 8, 8)
    net.train()(x)
    data = (x, net.eval()(x).argmax(1))
    graph = ramify.trace(net, x[:1])
    now = graph_cost(graph).macs
    names = [group.name for group in graph.groups if group.name.startswith("blocks")]
    options = {"alike": "blocks.*", "multiple_of": multiple}
    graph = cut(graph, loss, batches(data, 16), budget={"macs": 0.75 * now}, **options)
    assert graph_cost(graph).macs <= 0.75 * now
    [width] = {graph[name].width for name in names}
    assert width == 12 or (width < 12 and width % multiple == 0)
    assert multiple > 1 or width < 12  # with steps of 4 it is cheaper to cut other groups more


@pytest.mark.parametrize("step", [1, 3])
def test_alike_groups_are_as_wide_as_the_budget_allows(step):
    """Two tied sets with coarse steps: none can be wider by one step within the budget."""
    torch.manual_seed(1)
    layers = [nn.Linear(6, 24), *(nn.Linear(24, 24) for _ in range(3)), nn.Linear(24, 24)]
    net = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
    net.append(nn.Linear(24, 4))
    x = torch.randn(128, 6)
    data = (x, net(x).argmax(1))
    graph = ramify.trace(net, x[:1])
    budget = 0.6 * graph_cost(graph).params
    sets, tied = [["0", "2"], ["4", "6", "8"]], ["[02]", "[468]"]
    multiples = {name: step for names in sets for name in names}
    graph = cut(
        graph, loss, batches(data), budget={"params": budget}, alike=tied, multiple_of=multiples
    )
    widths = {name: graph[name].width for names in sets for name in names}
    sizes = lambda w: [6, w["0"], w["2"], w["4"], w["6"], w["8"], 4]  # noqa: E731
    params = lambda w: sum(a * b + b for a, b in itertools.pairwise(sizes(w)))  # noqa: E731
    assert params(widths) == graph_cost(graph).params <= budget
    for names in sets:
        assert len({widths[name] for name in names}) == 1
        wider = widths | {name: widths[name] + step for name in names}
        assert params(wider) > budget


def test_as_small_as_the_loss_allows():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    before, now = mean(net, data), graph_cost(graph).macs
    sizes = []
    for most in (0.02, 0.3):
        model = copy.deepcopy(net)
        graph = cut(ramify.trace(model, data[0][:1]), loss, batches(data), budget={"loss": most})
        assert mean(model, data) <= before + most + 1e-6
        sizes.append(graph_cost(graph).macs)
    assert now > sizes[0] > sizes[1]


def test_as_small_as_the_user_accepts():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    now, before = graph_cost(graph).macs, accuracy(net, data)

    def accept(model):
        return accuracy(model, data) >= before - 0.02

    graph = cut(graph, loss, batches(data), accept=accept)
    assert accept(net)
    assert graph_cost(graph).macs < 0.8 * now


def test_what_a_judge_does_to_the_model_is_forgotten():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    seen = []

    def accept(model):
        seen.append([p.detach().clone() for p in model.parameters()])
        with torch.no_grad():
            next(model.parameters()).zero_()
        return True

    cut(graph, loss, batches(data), budget={"macs": 0.8 * graph_cost(graph).macs}, accept=accept)
    assert float(next(net.parameters()).abs().sum()) > 0
    assert any(
        all(torch.equal(a, b) for a, b in zip(net.parameters(), s, strict=False)) for s in seen
    )


def test_what_nobody_accepts_is_refused():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    with pytest.raises(ramify.RamifyError, match="not accepted"):
        cut(graph, loss, batches(data), accept=lambda model: False)


def test_optimizer_and_followers_come_along():
    net, data, optimizer = task()
    average = copy.deepcopy(net)
    graph = ramify.trace(net, data[0][:1])
    budget = {"macs": 0.5 * graph_cost(graph).macs}
    graph = cut(graph, loss, batches(data), budget=budget, optimizer=optimizer, followers=[average])
    for own, other in zip(net.parameters(), average.parameters(), strict=True):
        assert own.shape == other.shape == optimizer.state[own]["exp_avg"].shape
    loss(net, data).mean().backward()
    optimizer.step()


def test_the_report_says_what_was_done():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    seen, held = [], [(data[0][:100], data[1][:100])]
    before = graph_cost(graph)
    graph = cut(
        graph,
        loss,
        batches(data)[1:],
        budget={"macs": 0.5 * before.macs},
        held=held,
        log=seen.append,
    )
    [report] = seen
    assert isinstance(report, CutReport)
    assert report.held
    assert report.before == before
    assert report.after == graph_cost(graph)
    assert report.widths["0"] == (24, graph["0"].width)
    assert report.loss_after == pytest.approx(mean(net, held[0]))
    assert report.predicted > 0
    assert [r.name for r in report.refitted] == ["0.weight", "2.weight", "4.weight"]


def test_an_emptied_layer_and_chance_are_said():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    budget = {"macs": 0.03 * graph_cost(graph).macs}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cut(graph, loss, batches(data), budget=budget, keep=1, refit=False)
    said = " ".join(str(w.message) for w in caught)
    assert "lost 90 %" in said
    assert "at chance" in said


def test_a_narrow_layer_of_which_one_channel_stays_is_said():
    """Seven of eight are less than nine tenths, and a floor of a tenth is one channel."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(64, 4)
    y = (x[:, 0] > 0).long()
    with pytest.warns(
        UserWarning, match=r"'0' \(8 to 1\) lost 90 % .*, or all but one: raise keep="
    ):
        cut(ramify.trace(net, x[:1]), loss, [(x, y)], budget={"params": 10})


@pytest.mark.parametrize(
    "options, match",
    [
        ({}, "cut takes a budget"),
        ({"budget": {"flop": 3}}, "a budget must be one of"),
        ({"budget": {"macs": -1}}, "above 0"),
        ({"budget": {"macs": 300}, "keep": 1.5}, "keep must be a share"),
        ({"budget": {"macs": 300}, "keep": 0}, "keep must be a share"),
        ({"budget": {"macs": 300}, "alike": "nothing.*"}, "matches 'nothing"),
        ({"budget": {"macs": 300}, "held": []}, "no batch"),
    ],
)
def test_what_makes_no_sense_is_refused(options, match):
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    with pytest.raises(ramify.RamifyError, match=match):
        cut(graph, loss, batches(data), **options)


@pytest.mark.parametrize(
    ("own", "options", "match"),
    [
        (lambda m, b: loss(m, b).detach(), {}, "no gradient reaches the weights"),
        (lambda m, b: b[0].mean(1), {}, "depends on no channel"),
        (lambda m, b: b[0].mean(1), {"method": ramify.Taylor()}, "depends on no channel"),
        (loss, {"method": ramify.Net2Net()}, "Net2Net proposes no prune"),
        (loss, {"budget": {"params": 1}}, r"params is 1, .* the network still has \d+:"),
        (loss, {"budget": {"params": "300"}}, "params is '300'; give a number above 0, or a perc"),
        (loss, {"budget": {"params": None}}, "got None"),
        (loss, {"accept": lambda m: torch.ones(2)}, "True or False"),
    ],
)
def test_what_no_cut_can_be_made_from_is_refused(own, options, match):
    net, data, _ = task()
    before = copy.deepcopy(net.state_dict())
    graph = ramify.trace(net, data[0][:1])
    with pytest.raises(ramify.RamifyError, match=match):
        cut(graph, own, batches(data), **{"budget": {"params": 500}, **options})
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


def test_a_budget_may_be_a_tensor():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    assert (
        graph_cost(cut(graph, loss, batches(data), budget={"params": torch.tensor(500)})).params
        <= 500
    )


def test_a_budget_may_be_a_share_of_what_there_is():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    now = graph_cost(graph)
    graph = cut(graph, loss, batches(data), budget={"macs": "60%", "params": "70%"})
    after = graph_cost(graph)
    assert 0.5 * now.macs < after.macs <= 0.6 * now.macs
    assert after.params <= 0.7 * now.params


def test_the_report_is_read_by_printing_it():
    net, data, _ = task()
    graph, reports = ramify.trace(net, data[0][:1]), []
    cut(graph, loss, batches(data), budget={"params": 500}, log=reports.append)
    said = str(reports[0])
    assert said.startswith("916 -> ")
    assert all(f"{name}  " in said for name, (old, new) in reports[0].widths.items() if old != new)
    assert "was expected" in said
    assert "Proposal" not in said
    assert len(said.splitlines()) < 10


@pytest.mark.parametrize("answer", [0.978, None, 1, torch.tensor(0.9)])
def test_a_judge_that_gives_no_yes_or_no_is_refused(answer):
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    with pytest.raises(ramify.RamifyError, match="True or False, but returned"):
        cut(graph, loss, batches(data), accept=lambda m: answer)
    with pytest.raises(ramify.RamifyError, match=r"accept must be a function .* but got 0.9"):
        cut(graph, loss, batches(data), accept=0.9)
    assert graph["0"].width == 24


def test_a_judge_may_answer_in_a_tensor():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])

    def good(model):
        return torch.tensor(accuracy(model, data)) >= 0.95

    cut(graph, loss, batches(data), accept=good)
    assert net[0].out_features < 24
    assert accuracy(net, data) >= 0.95


def test_a_network_that_knows_nothing_before_the_cut_is_told_from_a_bad_cut():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    other = [(10 * x + 3, y) for x, y in batches(data)]
    with pytest.warns(UserWarning, match="before the cut, .* not trained, or the inputs"):
        cut(graph, loss, other, budget={"params": 500})


def test_one_pattern_of_groups_is_no_list_of_letters():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    graph = cut(graph, loss, batches(data), budget={"params": "70%"}, groups="2")
    assert (graph["0"].width, graph["2"].width < 24) == (24, True)


def test_a_share_without_its_sign_is_asked_for():
    net, data, _ = task()
    graph = ramify.trace(net, data[0][:1])
    with pytest.raises(ramify.RamifyError, match="a share of the network is given as '50%'"):
        cut(graph, loss, batches(data), budget={"macs": 0.5})
