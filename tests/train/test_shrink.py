"""Shrink: cut and tune, round after round, with what it resumes from, refuses and promises."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ramify
from ramify.errors import RamifyError
from ramify.relax import Pairs
from ramify.train.epoch import Training, cross_entropy
from ramify.train.norm_statistics import recompute_statistics
from ramify.train.width_search import WidthSearch
from tests.stop import Stop

TUNING = Training(epochs=2, lr=0.01)


def problem(size=16, classes=2):
    """A network with a norm, data that it can learn, in batches; float64."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    x = torch.randn(4 * size, 3)
    y = (x[:, 0] * x[:, 1] > 0).long() % classes
    net = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2)
    )
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(net, (x, y)).mean().backward()
        optimizer.step()
    return net, list(zip(x.split(size), y.split(size), strict=True))


def params(model):
    return sum(parameter.numel() for parameter in model.parameters())


def shrunk(net, data, **given):
    options = {"budget": {"params": 60}, "training": TUNING, **given}
    return ramify.shrink(net, data[0][0][:1], cross_entropy, data, **options)


def test_cut_then_tuned():
    net, data = problem()
    done = shrunk(net, data, evaluate=lambda model: {"first": float(data[0][0][0, 0])})
    edit, *epochs, stop = done.history
    assert [event["event"] for event in epochs] == ["epoch", "epoch"]
    assert params(net) == edit["params_after"] == stop["params"] <= 60 < edit["params_before"]
    assert edit["loss_before"] < edit["loss_after"]
    assert stop["first"] == edit["first_before"] == edit["first_after"]
    assert stop["reason"] == "rounds"
    assert done.graph.model is net


def test_samples_that_chose_nothing_measure_the_cut():
    net, data = problem()
    first, second = data[:2], data[2:]
    for held, judge in ((None, first), (second, second)):
        model = copy.deepcopy(net)
        with torch.no_grad():
            model.eval()
            mean = float(torch.cat([cross_entropy(model, batch) for batch in judge]).mean())
        done = shrunk(model, first, calibration=first, held=held)
        assert done.history[0]["loss_before"] == pytest.approx(mean, rel=1e-12)
        assert done.history[0]["held"] is True


def test_rounds_approach_the_budget_by_equal_factors():
    net, data = problem(32)
    before = params(net)
    done = shrunk(net, data, budget={"params": 35}, rounds=3)
    edits = [event for event in done.history if event["event"] == "edit"]
    assert [event["round"] for event in edits] == [0, 1, 2]
    for number, event in enumerate(edits, 1):
        # From what is really left, which may be less than was allowed.
        allowed = event["params_before"] * (35 / event["params_before"]) ** (1 / (4 - number))
        assert event["params_after"] <= allowed
        assert event["params_after"] > 0.6 * allowed
    assert before > edits[0]["params_after"] > edits[1]["params_after"] > edits[2]["params_after"]


GIVEN = {
    "plain": {"rounds": 2, "teacher": None},
    "taught": {},
    "at a rate that is found": {"rounds": 2, "find_lr": True},
    "with its sensitivity": {"sensitivity": True, "groups": ("0",)},
    "searched": {
        "search": WidthSearch("rarts", epochs=2, gamma=0.1),
        "rule": ramify.TopFraction(0.4),
        "budget": None,
    },
    "scored in plain training": {"search": WidthSearch("l1", epochs=1)},
}


@pytest.mark.parametrize("name", GIVEN)
def test_goes_on_where_it_was_stopped(name, tmp_path):
    given = GIVEN[name]
    net, data = problem()
    batches = data
    if name == "searched":
        batches = Pairs(data[:2], data[2:])

    def run(model, **others):
        inputs = data[0][0][:1]
        options = {"budget": {"params": 60}, "training": TUNING, **given, **others}
        return ramify.shrink(model, inputs, cross_entropy, batches, **options)

    whole = copy.deepcopy(net)
    expected = run(whole)
    for after in range(len(expected.history)):
        file, model = tmp_path / f"{after}.safetensors", copy.deepcopy(net)
        with pytest.raises(KeyboardInterrupt):
            run(model, checkpoint=file, log=Stop(after))
        again = copy.deepcopy(net)
        done = run(again, checkpoint=file)
        seen = [(one["event"], one.get("train_loss")) for one in done.history]
        assert seen == [(one["event"], one.get("train_loss")) for one in expected.history]
        for one, two in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(one, two)


def test_a_finished_run_is_not_done_again(tmp_path):
    net, data = problem()
    file = tmp_path / "run.safetensors"
    whole = copy.deepcopy(net)
    first = shrunk(whole, data, checkpoint=file)
    again = shrunk(net, data, checkpoint=file, log=Stop(0))
    assert json.dumps(again.history) == json.dumps(first.history)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), whole.parameters(), strict=True))


def test_accept_goes_as_far_as_is_accepted():
    net, data = problem(32)

    def right(model):
        with torch.no_grad():
            return sum(float((model(x).argmax(1) == y).float().mean()) for x, y in data) / len(data)

    least = right(net.eval()) - 0.1
    done = shrunk(net, data, budget=None, accept=lambda model: right(model) >= least, training=NONE)
    assert right(net.eval()) >= least
    assert params(net) < done.history[0]["params_before"]


NONE = Training(epochs=0)


def test_without_tuning_it_is_a_cut():
    net, data = problem()
    other = copy.deepcopy(net)
    done = shrunk(net, data, training=NONE, calibration=data, held=data)
    assert [event["event"] for event in done.history] == ["edit", "stop"]
    graph = ramify.trace(other, data[0][0][:1])
    ramify.cut(graph, cross_entropy, data, budget={"params": 60}, held=data)
    for one, two in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_norms_end_with_the_statistics_that_batches_have():
    net, data = problem()
    shrunk(net, data)
    means = torch.stack([net[0](x).mean(0) for x, _ in data]).mean(0)
    variances = torch.stack([net[0](x).var(0) for x, _ in data]).mean(0)
    torch.testing.assert_close(net[1].running_mean, means)
    torch.testing.assert_close(net[1].running_var, variances)
    assert net[1].momentum == 0.1


def test_statistics_stay_where_they_cannot_be_found():
    net, data = problem()
    state = copy.deepcopy(net.state_dict())
    with pytest.raises(RamifyError, match="there is no batch to find the statistics"):
        recompute_statistics(net, cross_entropy, [])
    with pytest.raises(RamifyError, match="shapes cannot be multiplied"):
        recompute_statistics(net, cross_entropy, [data[0], (torch.ones(2, 5), data[0][1])])
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert net[1].momentum == 0.1
    assert not recompute_statistics(nn.Linear(2, 2), cross_entropy, [])


def test_dropout_rests_while_statistics_are_found():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    x, y = torch.randn(64, 3), torch.zeros(64, dtype=torch.long)
    assert recompute_statistics(net.train(), cross_entropy, [(x, y)])
    torch.testing.assert_close(net[1].running_mean, x.mean(0))
    assert net.training
    assert net[0].training


class Unreached(nn.Module):
    """A frozen norm, one that only another task uses, and one with a forward of its own."""

    class Own(nn.BatchNorm1d):
        def forward(self, x):
            if self.training:
                with torch.no_grad():
                    self.running_mean += self.momentum * (x.mean(0) - self.running_mean)
                    self.running_var += self.momentum * (x.var(0) - self.running_var)
            return (x - self.running_mean) / (self.running_var + self.eps).sqrt()

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.frozen, self.other, self.own = nn.BatchNorm1d(6), nn.BatchNorm1d(6), self.Own(6)
        for norm in (self.frozen, self.other):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        x = torch.relu(self.own(self.second(torch.relu(self.frozen(self.first(x))))))
        return self.last(x)


def test_frozen_and_unreached_norms_keep_their_statistics():
    torch.manual_seed(0)
    net, x, y = Unreached().train(), torch.randn(64, 5), torch.randint(0, 3, (64,))
    data = list(zip(x.split(16), y.split(16), strict=True))
    kept = {n: t.clone() for n, t in net.state_dict().items() if n.split(".")[0] != "own"}
    assert recompute_statistics(net, cross_entropy, data)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in kept.items())
    assert net.training
    with torch.no_grad():
        inner = [net.second(torch.relu(net.frozen(net.first(one)))) for one, _ in data]
    means = torch.stack([one.mean(0) for one in inner]).mean(0)
    torch.testing.assert_close(net.own.running_mean, means)
    assert net.own.momentum == 0.1


def test_growing_keeps_the_statistics_of_frozen_and_unreached_norms():
    torch.manual_seed(0)
    net, x, y = Unreached(), torch.randn(64, 5), torch.randint(0, 3, (64,))
    kept = {n: t.clone() for n, t in net.state_dict().items() if n.split(".")[1:] != ["weight"]}
    ramify.grow(
        net,
        x[:2],
        cross_entropy,
        list(zip(x.split(16), y.split(16), strict=True)),
        method=ramify.RandomSplit(),
        rule=ramify.TopFraction(0.5),
        training=ramify.Training(epochs=1, lr=0.05),
        rounds=1,
    )
    assert net.first.out_features > 6
    for name in ("frozen.running_mean", "frozen.running_var"):
        assert torch.equal(net.state_dict()[name][:6], kept[name])
    for name in ("other.running_mean", "other.running_var"):
        assert torch.equal(net.state_dict()[name], kept[name])


def test_the_full_network_teaches_where_the_loss_takes_a_softmax():
    net, data = problem()
    runs = {
        name: shrunk(copy.deepcopy(net), data, teacher=teacher).history
        for name, teacher in {"full": "full", "copy": copy.deepcopy(net), "none": None}.items()
    }
    losses = {name: [e["train_loss"] for e in events[1:3]] for name, events in runs.items()}
    assert losses["full"] == losses["copy"] != losses["none"]

    # A loss without a softmax has no teacher.
    def squares(model, batch):
        return (model(batch[0]) - F.one_hot(batch[1], 2)).square().sum(1)

    inputs, options = data[0][0][:1], {"budget": {"params": 60}, "training": TUNING}
    alone = [
        ramify.shrink(copy.deepcopy(net), inputs, squares, data, teacher=teacher, **options)
        for teacher in ("full", None)
    ]
    assert alone[0].history[1]["train_loss"] == alone[1].history[1]["train_loss"]


def test_fresh_weights_in_the_shape_of_the_cut():
    net, data = problem()
    other = copy.deepcopy(net)
    full = copy.deepcopy(net)
    torch.manual_seed(0)
    shrunk(net, data, training=NONE)
    shrunk(other, data, training=NONE, fresh=lambda: copy.deepcopy(full))
    assert [p.shape for p in net.parameters()] == [p.shape for p in other.parameters()]
    assert not any(torch.equal(net[n].weight, other[n].weight) for n in (0, 3, 5))


def test_followers_are_cut_alike():
    net, data = problem()
    average = torch.optim.swa_utils.AveragedModel(net)
    steps = []
    shrunk(net, data, followers=[average], after_step=lambda model: steps.append(model is net))
    assert [p.shape for p in average.parameters()] == [p.shape for p in net.parameters()]
    assert steps == [True] * 8


WRONG = [
    ({"budget": {"params": 10}}, "with all removable channels removed the network still has"),
    ({"budget": {"params": 9e9}}, "within the budget as it is, and nothing would be cut"),
    ({"budget": None}, "cut takes a budget"),
    ({"budget": {"size": 3}}, "a budget must be one of"),
    ({"rounds": 0}, "rounds is 0"),
    ({"budget": None, "rule": ramify.TopFraction(0.5), "rounds": 2}, "give a budget, or one round"),
    ({"search": WidthSearch("rarts"), "rounds": 2}, "a search scores the channels once"),
    ({"search": WidthSearch("rarts")}, "learns on two halves of the data"),
    ({"search": WidthSearch("l1", groups=("x*",))}, "is called x*"),
    ({"groups": ("x*",)}, "matches 'x\\*'"),
    ({"keep": 0}, "keep must be a share below 1 or a whole width"),
    ({"teacher": "half"}, 'teacher must be a network, "full" or None'),
    ({"teacher": nn.Linear(3, 5).double()}, "take a teacher of the same classes"),
]


@pytest.mark.parametrize("given, said", WRONG, ids=[said for _, said in WRONG])
def test_what_cannot_be_is_said_before_any_work(given, said):
    net, data = problem()
    state, drawn = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    with pytest.raises(RamifyError, match=said.replace("*", "\\*").replace("\\\\*", "\\*")):
        shrunk(net, data, log=Stop(0), **given)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())


def test_a_frozen_network_is_cut_only_if_it_is_not_to_be_trained():
    net, data = problem()
    net.requires_grad_(False)
    with pytest.raises(RamifyError, match=r"unfreeze some, or give .*Training\(epochs=0\)"):
        shrunk(net, data)
    assert net[0].out_features == 8
    shrunk(net, data, training=Training(epochs=0))
    assert params(net) <= 60


def test_the_network_is_no_teacher_of_itself():
    net, data = problem()
    with pytest.raises(RamifyError, match="the teacher is the network that is to be cut"):
        shrunk(net, data, teacher=net)


@pytest.mark.filterwarnings("ignore:.*at chance:UserWarning", "ignore:.*lost 90 %:UserWarning")
def test_the_sensitivity_is_that_of_cuts_of_one_group():
    net, data = problem()
    other = copy.deepcopy(net)
    done = shrunk(net, data, sensitivity=True, calibration=data, held=data)
    assert [event["event"] for event in done.history[:2]] == ["sensitivity", "edit"]
    event = done.history[0]
    assert list(event["groups"]) == ["0", "3"]
    for name, trials in event["groups"].items():
        for share, loss in trials:
            model = copy.deepcopy(other)
            graph = ramify.trace(model, data[0][0][:1])
            width = graph[name].width
            rule = ramify.TopFraction(min(round(share * width), width - 1) / width)
            options = {
                "refit": False,
                "balance": False,
                "method": ramify.Taylor(),
                "held": data,
                "keep": 1,
            }
            reports = []
            ramify.cut(
                graph, cross_entropy, data, rule=rule, groups=[name], log=reports.append, **options
            )
            assert reports[0].loss_after == pytest.approx(loss, rel=1e-9)
