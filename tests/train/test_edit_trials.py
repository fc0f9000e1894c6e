"""Selections are tried as a whole before they are kept: what is shortened, left out, announced."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ramify
from ramify.cost import Cost
from ramify.train.calibration import calibration
from ramify.train.edit_trials import EditTrials, Tried, foretold, gain_at, shortened, try_edits
from ramify.train.norm_statistics import recompute_statistics
from tests.train import growing

FREE = Cost(0, 0)
Proposals = Sequence[ramify.Proposal]


class Net(nn.Module):
    """A batch norm behind six channels, of which the last two are read with no weight at all."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 1)
        with torch.no_grad():
            self.b.weight[:, 4:] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.tanh(self.norm(self.a(x))))
        return out


def loss(model: nn.Module, x: Tensor) -> Tensor:
    values: Tensor = (model(x)[:, 0] - x.prod(1)).square()
    return values


def fitted_net() -> tuple[Net, list[Tensor]]:
    """A network at a minimum over all its readers' weights, so that a missing channel is felt."""
    torch.manual_seed(0)
    net = Net().double()
    batches = list(torch.randn(60, 3, dtype=torch.float64).split(25))  # 25, 25 and 10
    x = torch.cat(batches)
    with torch.no_grad():
        seen = torch.tanh(net.train().norm(net.a(x)))[:, :4]
        best = torch.linalg.lstsq(
            torch.cat([seen, torch.ones_like(seen[:, :1])], 1), x.prod(1, keepdim=True)
        ).solution
        net.b.weight[0, :4], net.b.bias[0] = best[:4, 0], best[4, 0]
    return net, batches


def trials_of(net: Net, batches: list[Tensor], most: int | None = None) -> EditTrials:
    return EditTrials(ramify.trace(net, batches[0]), loss, batches, most)


def scored(edit: ramify.Edit, score: float = 1.0) -> ramify.Proposal:
    return ramify.Proposal(edit, 0.0, FREE, score=score)


def split(channel: int, length: float) -> ramify.Split:
    step = length * torch.ones(2, 3, dtype=torch.float64)
    return ramify.Split("a", channel, offsets={"a.weight": step * torch.tensor([[1.0], [-1.0]])})


def whole(selected: Proposals) -> Proposals:
    return selected


def test_a_trial_is_what_applying_and_new_statistics_come_to() -> None:
    net, batches = fitted_net()
    trials = trials_of(net, batches)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    edits = [split(0, 0.3), ramify.Prune("a", 2)]
    found = trials.after(edits)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    other = copy.deepcopy(net)
    ramify.apply(ramify.trace(other, batches[0]), edits)
    recompute_statistics(other, loss, batches)
    with torch.no_grad():
        mean = loss(other.eval(), torch.cat(batches)).mean()
    assert found == pytest.approx(float(mean), rel=1e-12)
    assert found != trials.before


def test_trials_measure_losses_of_half_precision() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).half()
    x = torch.randn(16, 3).half()
    trials = EditTrials(ramify.trace(net, x), loss, [x])
    assert trials.after([ramify.Split("0", 0)]) == pytest.approx(trials.before, rel=1e-2)


def test_a_loss_that_takes_gradients_itself_is_told_how() -> None:
    def penalty(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        [slope] = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return slope.square().sum(1)

    def enabled(model: nn.Module, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return penalty(model, x)

    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(16, 3)
    graph = ramify.trace(net, x)
    with pytest.raises(ramify.RamifyError, match=r"inside `with torch\.enable_grad\(\):`"):
        EditTrials(graph, penalty, [x])
    trials = EditTrials(graph, enabled, [x])
    assert trials.after([ramify.Split("0", 0)]) == pytest.approx(trials.before, rel=1e-5)


def test_statistics_are_found_anew_and_given_back() -> None:
    net, batches = fitted_net()
    kept = net.norm.running_mean.clone()  # type: ignore[union-attr]
    trials = trials_of(net, batches)
    with torch.no_grad():
        means = torch.stack([net.a(batch).mean(0) for batch in batches]).mean(0)
    assert torch.allclose(net.norm.running_mean, means)  # type: ignore[arg-type]
    trials.undo()
    assert torch.equal(net.norm.running_mean, kept)  # type: ignore[arg-type]


def test_so_many_samples_are_taken_and_no_more() -> None:
    net, batches = fitted_net()
    assert [len(trials_of(net, batches, most).held) for most in (1, 25, 26, 500)] == [1, 1, 2, 3]


def test_a_selection_that_does_no_harm_stays_as_it_is() -> None:
    net, batches = fitted_net()
    selected = [scored(ramify.Prune("a", 4)), scored(ramify.Prune("a", 5)), scored(split(0, 0.0))]
    tried = try_edits(trials_of(net, batches), selected, whole)
    assert list(tried.selected) == selected
    assert list(tried.edits) == [proposal.edit for proposal in selected]
    assert (tried.factor, tried.dropped) == (1.0, 0)


def test_splits_are_shortened_by_halves_until_the_loss_stays() -> None:
    net, batches = fitted_net()
    trials = trials_of(net, batches)
    most = 1.001 * trials.before
    selected = [scored(split(0, 0.5)), scored(split(1, 0.5))]

    def after(factor: float) -> float:
        return trials.after([split(0, 0.5 * factor), split(1, 0.5 * factor)])

    tried = try_edits(trials, selected, whole)
    assert 1 / 64 <= tried.factor < 1
    assert after(tried.factor) <= most < after(2 * tried.factor)
    assert trials.after(tried.edits) == pytest.approx(after(tried.factor), rel=1e-12)


def test_prunes_that_do_harm_are_left_out_and_no_others() -> None:
    net, batches = fitted_net()
    selected = [scored(ramify.Prune("a", channel)) for channel in (0, 4, 1, 5)]
    tried = try_edits(trials_of(net, batches), selected, whole)
    assert [edit.channel for edit in tried.edits] == [4, 5]
    assert (tried.factor, tried.dropped) == (1.0, 2)
    assert try_edits(trials_of(net, batches), selected[:1], whole).selected == []


def test_what_prunes_made_room_for_is_fitted_again() -> None:
    net, batches = fitted_net()
    asked: list[Proposals] = []

    def fitted(selected: Proposals) -> Proposals:
        asked.append(selected)
        return [one for one in selected if isinstance(one.edit, ramify.Prune)]

    selected = [scored(ramify.Prune("a", channel)) for channel in (0, 4)] + [scored(split(2, 0.1))]
    tried = try_edits(trials_of(net, batches), selected, fitted)
    assert asked == [[selected[1], selected[2]]]
    assert list(tried.selected) == [selected[1]]
    assert tried.dropped == 2


def test_groups_stay_or_go_as_a_whole_where_widths_are_multiples() -> None:
    net, batches = fitted_net()
    harmful = [scored(ramify.Prune("a", 0)), scored(split(1, 0.0))]
    tried = try_edits(trials_of(net, batches), harmful, whole, by_group=True)
    assert tried.selected == []
    assert tried.dropped == 2


def test_an_edit_to_what_is_no_number_is_a_rise() -> None:
    net, x = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)).double(), fitted_net()[1]
    trials = EditTrials(ramify.trace(net, x[0]), loss, x)
    edit = ramify.Split("0", 0, offsets={"0.weight": split(0, 1e300).offsets["a.weight"]})
    assert trials.after([edit]) >= 1e29
    assert try_edits(trials, [scored(edit)], whole).selected == []


def test_gains_fall_with_the_square_of_the_step_and_prunes_have_none() -> None:
    longer, prune = split(0, 0.5), ramify.Prune("a", 4)
    found = shortened(longer, 0.25)
    assert isinstance(found, ramify.Split)
    assert torch.equal(found.offsets["a.weight"], 0.25 * longer.offsets["a.weight"])
    assert shortened(prune, 0.25) is prune
    both = [ramify.Proposal(longer, 0.8, FREE), ramify.Proposal(prune, 0.1, FREE)]
    assert gain_at(both, 0.25) == pytest.approx(0.15)
    assert gain_at([scored(prune)], 0.25) is None


def test_calibration_is_a_mean_ratio_of_a_trial_and_of_earlier_edits() -> None:
    def edit(predicted: float | None, measured: float) -> dict[str, Any]:
        return {"event": "edit", "predicted_gain": predicted, "measured_gain": measured}

    assert calibration([{"event": "epoch"}, edit(None, 0.3), edit(0.0, 0.3)]) == 1.0
    assert calibration([edit(0.4, 0.1)]) == pytest.approx(0.25 ** (1 / 2))
    assert calibration([edit(1.0, 0.5), edit(1.0, 2.0)]) == pytest.approx(2 ** (0.5 / 2.5))
    assert calibration([edit(1.0, -3.0)] * 99) == pytest.approx(0.01 ** (2 / 3))
    assert calibration([], 0.25) == pytest.approx(0.25)
    assert calibration([edit(0.4, 0.4)], 0.25) == pytest.approx(0.25 ** (3 / 4))
    assert calibration([edit(0.4, 0.4)], -0.1) == pytest.approx(0.01 ** (3 / 4))


class Harmful:
    """A method that only proposes to prune what is needed."""

    def propose(self, graph: Any, loss: Any, batches: Any) -> list[ramify.Proposal]:
        return [ramify.Proposal(ramify.Prune("0", 0), 0.0, Cost(-9, -9), score=1.0, graph=graph)]


def test_a_run_ends_where_every_edit_raises_the_loss() -> None:
    settings: dict[str, Any] = {"method": Harmful(), "rule": ramify.TopFraction(0.5)}
    settings["training"] = ramify.Training(epochs=15, lr=0.05)
    grown = growing.run(growing.net(), growing.data(), rounds=3, **settings)
    assert [event["event"] for event in grown.history] == ["epoch"] * 15 + ["stop"]
    assert grown.history[-1]["reason"] == "no edit that does not raise the loss"
    assert grown.graph["0"].width == 3
    forced = growing.run(growing.net(), growing.data(), rounds=1, trial=False, **settings)
    [edit] = [event for event in forced.history if event["event"] == "edit"]
    assert edit["loss_after"] > 1.001 * edit["loss_before"]
    assert (edit["step_factor"], edit["dropped"]) == (1.0, 0)


def test_the_history_says_predicted_expected_measured_and_step() -> None:
    grown = growing.run(growing.net(), growing.data(), rounds=4)
    edits = [event for event in grown.history if event["event"] == "edit"]
    assert len(edits) > 1
    for edit in edits:
        gains = sum(p["gain"] for p in edit["proposals"] if p["selected"])
        assert edit["predicted_gain"] == pytest.approx(edit["step_factor"] ** 2 * gains)
        assert edit["expected_gain"] == edit["calibration"] * edit["predicted_gain"]
        assert edit["measured_gain"] == edit["loss_before"] - edit["loss_after"]
        assert edit["loss_after"] <= 1.001 * edit["loss_before"]
    came = sum(edit["measured_gain"] for edit in edits)
    assert 0.5 < sum(edit["expected_gain"] for edit in edits) / came < 2


def test_new_neurons_gain_with_the_next_step_and_not_with_the_edit() -> None:
    neuron = ramify.Split("a", 1, (1.0, 0.0), {"a.weight": torch.tensor([[0.0] * 3, [0.5] * 3])})
    assert neuron.adds_neurons
    assert not split(1, 0.5).adds_neurons
    assert not ramify.Split("a", 1).adds_neurons
    assert not replace(neuron, weights=(0.0, 1.0)).adds_neurons  # the copy that is read moves
    both = [ramify.Proposal(neuron, 2.0, FREE), ramify.Proposal(split(0, 0.5), 0.8, FREE)]
    assert gain_at(both, 0.5) == pytest.approx(0.2)
    assert gain_at(both[:1], 0.5) is None
    said = foretold(Tried(both, [one.edit for one in both], 0.5, gain=0.1), [])
    assert said["predicted_gain"] == said["expected_gain"] * 2 == pytest.approx(0.2)
    assert said["first_step_gain"] == pytest.approx(0.5)
    assert foretold(Tried(both[1:], [both[1].edit]), [])["first_step_gain"] is None


def test_gradmax_foretells_no_gain_of_the_edit_itself() -> None:
    grown = growing.run(growing.net(), growing.data(), rounds=1, method=ramify.GradMax())
    [edit] = [event for event in grown.history if event["event"] == "edit"]
    assert edit["predicted_gain"] is None
    assert edit["first_step_gain"] > 0
    assert abs(edit["measured_gain"]) < 1e-5
