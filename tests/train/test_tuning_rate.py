"""The learning rate of fine-tuning: the largest of a ladder that does no harm in a short trial."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import nn

import ramify
from ramify.train import tuning_rate as module
from ramify.train.epoch import Training
from ramify.train.tuning_rate import tuning_rate
from tests.processes import on_each_rank

DESCENT = Training(epochs=1, lr=0.1, momentum=0.0, schedule="constant")


def found(model, loss, batches, training=DESCENT, steps=100, **others):
    given = {"epoch": 0, "steps": steps, "sample": batches, "held": batches, **others}
    return tuning_rate(model, loss, loss, batches, training=training, **given)


class Point(nn.Module):
    """One weight, at which a bowl of a known curvature is evaluated."""

    def __init__(self, start=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))


def bowl(curvature):
    return lambda model, batch: 0.5 * curvature * model.weight.square().expand(len(batch))


@pytest.mark.parametrize(
    ("curvature", "lr"),
    [(0.5, 1.0), (4.0, 0.3), (15.0, 0.1), (60.0, 0.03), (150.0, 0.01), (1e6, 0.003)],
)
def test_the_largest_rate_at_which_gradient_descent_converges(curvature, lr):
    # w <- (1 - lr c) w, which grows if lr > 2 / c; at 1e6 no rate of the ladder converges.
    batches = [torch.ones(4)] * 20
    rate = found(Point(), bowl(curvature), batches)
    assert rate.lr == pytest.approx(lr)
    assert rate.steps == 10
    for trial in rate.trials:
        steps = (1 - trial.lr * curvature) ** (2 * rate.steps)
        assert trial.loss == pytest.approx(0.5 * curvature * steps, rel=1e-9)
        if curvature < 1e6:
            assert (trial.lr <= rate.lr) == (trial.lr < 2 / curvature)


def test_a_trial_takes_a_tenth_of_the_steps_within_bounds():
    batches = [torch.ones(1)] * 300
    for steps, few in ((40, 10), (400, 40), (5000, 100)):
        assert found(Point(), bowl(1.0), batches, steps=steps).steps == few


def classifier():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
    )
    x = torch.randn(120, 3)
    return net.double().eval(), list(
        zip(x.double().split(20), (x[:, 0] > 0).long().split(20), strict=True)
    )


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def test_network_modes_and_random_numbers_are_left_as_they_were():
    net, batches = classifier()
    net[1].train()
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rate = found(net, cross_entropy, batches)
    assert len(rate.trials) > 1
    assert torch.equal(torch.rand(3), expected)
    assert [one.training for one in net] == [False, True, False, False, False]
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("after", "chance", "lr"),
    [
        # Of a loss of 1 before and 2 at chance, a harmless trial loses 0.07 at most.
        ({0.1: 1.07, 0.3: 1.071}, 2.0, 0.1),
        ({0.1: 1.071, 0.03: 1.069}, 2.0, 0.03),
        # It is compared with the best trial so far, after which 1.5 is learned.
        ({0.1: 0.5, 0.3: 0.6, 1.0: 0.61}, 2.0, 0.3),
        # At chance nothing is learned; every rise is harm.
        ({0.1: 1.001, 0.03: 1.0}, 1.0, 0.03),
        # What was learned is not known: the loss itself.
        ({0.1: 1.06, 0.3: 1.08}, math.inf, 0.1),
        # All are harmless, and none is.
        ({0.1: 0.9, 0.3: 0.8, 1.0: 0.7}, 2.0, 1.0),
        ({0.1: 9.0, 0.03: 8.0, 0.01: 7.0, 0.003: 6.0}, 2.0, 0.003),
    ],
)
def test_a_trial_may_lose_a_share_of_what_was_learned(after, chance, lr, monkeypatch):
    asked = []

    def trial(model, loss, taught, batches, steps, training, sample, held):
        asked.append(round(training.lr, 6))
        return after[asked[-1]]

    monkeypatch.setattr(module, "_after", trial)
    monkeypatch.setattr(module, "constant_loss", lambda *_: chance)
    rate = found(Point(), bowl(2.0), [torch.ones(4)] * 20)  # a loss of 1
    assert rate.lr == pytest.approx(lr)
    assert asked == list(after)
    assert [trial.loss for trial in rate.trials] == list(after.values())


def test_a_rate_that_makes_weights_infinite_is_harmful():
    def steep(model, batch):
        return (model.weight**4).expand(len(batch))

    rate = found(Point(start=30.0), steep, [torch.ones(4)] * 20, replace(DESCENT, lr=1e-3))
    assert rate.trials[0].loss == math.inf
    assert rate.event()["trials"][0] == [1e-3, None]
    json.dumps(rate.event(), allow_nan=False)


def shrunk(net, batches, **given):
    inputs = batches[0][0][:1]
    return ramify.shrink(net, inputs, cross_entropy, batches, budget={"params": 35}, **given)


def test_shrink_trains_at_the_rate_that_it_found():
    net, batches = classifier()
    other = copy.deepcopy(net)
    history = shrunk(net, batches).history
    assert [event["event"] for event in history] == ["edit", "rate", "epoch", "epoch", "stop"]
    torch.manual_seed(1)
    again = copy.deepcopy(other)
    shrunk(again, batches)
    torch.manual_seed(1)
    training = replace(ramify.train.shrink.tuning(), lr=history[1]["lr"])
    plain = shrunk(other, batches, training=training).history
    assert [event["event"] for event in plain] == ["edit", "epoch", "epoch", "stop"]
    for one, two in zip(again.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_every_cut_has_its_own_rate():
    net, batches = classifier()
    training = Training(epochs=1, lr=0.01)
    history = shrunk(net, batches, rounds=2, training=training, find_lr=True).history
    kinds = [event["event"] for event in history]
    assert kinds == ["edit", "rate", "epoch", "edit", "rate", "epoch", "stop"]
    assert [e["round"] for e in history if e["event"] == "rate"] == [0, 1]


def on_one_rank(rank, folder):
    """Trials on two ranks, of which one has a loss that becomes infinite at large weights."""
    meeting = f"file://{folder}/meeting"
    patience = timedelta(seconds=60)  # for a rank that waits for a step that the other leaves out
    dist.init_process_group("gloo", init_method=meeting, timeout=patience, rank=rank, world_size=2)
    net, batches = classifier()
    start = net[0].weight.detach().clone()

    def loss(model, batch):
        far = float((model[0].weight.detach() - start).abs().max()) > 0.3
        return cross_entropy(model, batch) / (0.0 if far and rank == 1 else 1.0)

    with ramify.together():
        rate = found(net, loss, batches[rank::2])
    torch.save(rate.event(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_find_one_rate(tmp_path):
    on_each_rank(on_one_rank, str(tmp_path))
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert one == two
    assert one["trials"][-1][1] is None  # infinite on rank 1
    assert one["lr"] < one["trials"][-1][0]


def test_no_rate_is_found_where_nothing_is_tuned_or_all_is_fresh():
    net, batches = classifier()
    history = shrunk(copy.deepcopy(net), batches, training=Training(epochs=0), find_lr=True).history
    assert [event["event"] for event in history] == ["edit", "stop"]
    fresh = lambda: classifier()[0]  # noqa: E731
    history = shrunk(copy.deepcopy(net), batches, fresh=fresh).history
    assert "rate" not in [event["event"] for event in history]
    with pytest.raises(ramify.RamifyError, match="find_lr finds the learning rate for a network"):
        shrunk(net, batches, fresh=fresh, find_lr=True)


def test_a_loss_without_gradients_is_named():
    net, batches = classifier()
    net.requires_grad_(False).register_parameter("spare", nn.Parameter(torch.ones(9)))
    with pytest.raises(ramify.RamifyError, match="takes gradients; unfreeze some"):
        shrunk(net, batches)
