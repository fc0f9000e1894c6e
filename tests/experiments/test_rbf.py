"""The toy RBF experiment: its gradient, its laws, its arms and its command, on tiny settings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ramify
from experiments.s2d.rbf import command
from experiments.s2d.rbf import network as rbf
from experiments.s2d.rbf.__main__ import main
from experiments.s2d.rbf.arms import (
    ARMS,
    GROUP,
    NEURONS,
    Settings,
    addition,
    first_neuron,
    grow,
    propose,
    steepest,
)
from experiments.s2d.rbf.arms import (
    Path as Way,
)
from experiments.s2d.rbf.law import (
    after_split,
    angles,
    blind_share,
    both_signs,
    decrease,
    eigenvalues,
    other_sign_share,
    restored,
)
from experiments.s2d.rbf.table import summary
from experiments.s2d.rbf.task import make_task, mse, network, squared_error, stream
from experiments.s2d.rbf.training import fit, gradient, optimizer_of

TINY = Settings(iterations=30)


def idle(_: int) -> None:
    pass


def trained(width: int, iterations: int = 300):
    task = make_task(3)
    net = network(width, stream(3, "test"))
    fit(net, task, optimizer_of(net), iterations, idle)
    return net, task


def test_seeds_and_purposes_have_streams_of_their_own():
    draws = {
        float(torch.rand((), generator=stream(seed, name)))
        for seed in range(3)
        for name in ("task", "start", "s2d")
    }
    assert len(draws) == 9
    assert torch.equal(make_task(4).y, make_task(4).y)
    assert not torch.equal(make_task(4).y, make_task(5).y)


def rows(net):
    parameters = (net.hidden.weight, net.hidden.bias, net.out.weight)
    return torch.stack([parameter.detach().flatten() for parameter in parameters])


def test_the_closed_form_gradient_is_that_of_autograd():
    task, net = make_task(0), network(5, stream(0, "test"))
    points, ours = torch.cat([task.x, torch.ones_like(task.x)], 1).T.numpy(), np.empty((3, 5))
    loss = gradient(rows(net).numpy(), points, task.y[:, 0].numpy(), ours)
    expected = squared_error(net, (task.x, task.y)).mean()
    theirs = torch.autograd.grad(expected, [net.hidden.weight, net.hidden.bias, net.out.weight])
    assert loss == pytest.approx(float(expected.detach()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.from_numpy(a), b.flatten(), rtol=1e-10, atol=1e-12)


def test_training_makes_the_steps_of_torchs_adam():
    task, net, other = make_task(0), network(3, stream(0, "test")), network(3, stream(0, "test"))
    fit(net, task, optimizer_of(net), 15, idle)
    adam = torch.optim.Adam(other.parameters(), lr=0.005)
    for _ in range(15):
        adam.zero_grad()
        squared_error(other, (task.x, task.y)).mean().backward()
        adam.step()
    torch.testing.assert_close(rows(net), rows(other), rtol=1e-9, atol=1e-12)


def test_training_lowers_the_loss_and_reports_every_iteration():
    task, net = make_task(0), network(3, stream(0, "test"))
    before, ticks = mse(net, task), []
    curve = fit(net, task, optimizer_of(net), 620, ticks.append)
    assert curve[0] == pytest.approx(before)
    assert mse(net, task) < before
    assert sum(ticks) == 620


def test_frozen_neurons_keep_their_incoming_weights():
    task, net = make_task(0), network(4, stream(0, "test"))
    weight, out = net.hidden.weight.detach().clone(), net.out.weight.detach().clone()
    fit(net, task, optimizer_of(net), 20, idle, frozen=3)
    assert torch.equal(net.hidden.weight[:3], weight[:3])
    assert not torch.equal(net.hidden.weight[3], weight[3])
    assert not torch.isclose(net.out.weight, out).any()


def test_the_decrease_right_after_a_split_is_linear_in_the_eigenvalue():
    net, task = trained(7)
    law = eigenvalues(net, task, 0.01, 5, idle)
    assert len(law["index"]) == 5
    assert law["index"] == sorted(law["index"])
    assert law["r"]["fine"] >= 0.99999
    assert law["slope"]["fine"] == pytest.approx(1, abs=1e-3)
    assert law["r"]["coarse"] >= 0.99
    assert law["slope"]["coarse"] == pytest.approx(1, abs=0.05)


def test_the_decrease_is_largest_along_the_minimum_eigenvector():
    net, task = trained(7)
    law = angles(net, task, 0.01)
    for decreases in law["decrease"].values():
        assert max(decreases) == decreases[law["degrees"].index(0)]
    spread = max(law["expected"]) - min(law["expected"])
    for measured, expected in zip(law["decrease"]["fine"], law["expected"], strict=True):
        assert measured == pytest.approx(expected, abs=1e-3 * spread)


def test_a_decrease_is_the_difference_of_the_losses():
    net, task = trained(3)
    other = network(2, stream(3, "other"))
    assert decrease(net, other, task) == pytest.approx(mse(net, task) - mse(other, task))


def test_an_added_neuron_without_outgoing_weight_changes_nothing():
    net, task = trained(2)
    fresh, before = network(1, stream(9, "fresh")), mse(net, task)
    ramify.apply(ramify.trace(net, task.x), [addition(ramify.trace(net, task.x), fresh)])
    assert mse(net, task) == pytest.approx(before, rel=1e-12)
    torch.testing.assert_close(net.hidden.weight[-1], fresh.hidden.weight[0])
    torch.testing.assert_close(net.hidden.bias[-1], fresh.hidden.bias[0])
    assert float(net.out.weight.detach()[0, -1]) == 0


def test_s2d_goes_on_with_the_smallest_index_where_all_are_positive():
    task, net = make_task(3), network(2, stream(3, "test"))
    with torch.no_grad():  # a fit 0.1 too low under two bumps: σ'' is negative at their tops
        net.hidden.weight.fill_(0.05)
        net.hidden.bias.copy_(torch.tensor([0.0, 0.1]))
        net.out.weight.fill_(1.0)
        low = type(task)(task.seed, task.truth, task.x, net(task.x) + 0.1)
    graph = ramify.trace(net, task.x)
    proposals = propose(graph, low, 0.01)
    assert all(proposal.splitting_index > 0 for proposal in proposals)
    way = Way(net)
    split = steepest(graph, low, Settings(step=0.01), stream(0, ""), way)
    assert way.indices == [min(proposal.splitting_index for proposal in proposals)]
    assert split.weights == (0.5, 0.5)
    before = mse(net, low)
    lost = mse(after_split(net, low, split), low) - before
    assert lost == pytest.approx(0.5 * 0.01**2 * way.indices[0], rel=0.02)


@pytest.mark.parametrize("arm", [arm for arm in ARMS if not arm.startswith("scratch")])
def test_every_growing_arm_reaches_eight_neurons(arm):
    task = make_task(1)
    way = grow(arm, task, TINY, idle, keep=7)
    assert way.net.hidden.out_features == NEURONS
    assert len(way.phases) == NEURONS
    assert way.phases[-1] == pytest.approx(mse(way.net, task))
    assert len(restored(way.stages[7]).hidden.bias) == 7
    assert len(ramify.trace(way.net, task.x).groups) == 2
    assert ramify.trace(way.net, task.x)[GROUP].width == NEURONS


def test_error_far_from_every_neuron_is_counted_as_unseen():
    task, net = make_task(1), network(1, stream(1, "test"))
    with torch.no_grad():
        net.hidden.weight.fill_(1.0)
        net.hidden.bias.fill_(-100.0)
    assert blind_share(net, task) == 1.0
    with torch.no_grad():
        net.hidden.weight.fill_(0.0)
        net.hidden.bias.fill_(0.0)
    assert blind_share(net, task) == 0.0


def test_positive_draws_are_the_absolute_values_of_the_signed_ones():
    signed, positive = make_task(1), make_task(1, positive=True)
    torch.testing.assert_close(positive.truth.out.weight, signed.truth.out.weight.abs())
    assert torch.equal(positive.truth.hidden.weight, signed.truth.hidden.weight)
    assert positive.y.min() >= 0 > signed.y.min()
    first = first_neuron(positive, Settings(target="positive"))
    assert torch.equal(first.out.weight, first_neuron(signed, Settings()).out.weight.abs())
    near = make_task(1, reach=1.0)
    torch.testing.assert_close(near.x * 5, signed.x)


def test_error_where_the_target_has_the_sign_of_no_weight_is_counted():
    task, net = make_task(1), network(2, stream(1, "test"))
    with torch.no_grad():
        net.out.weight.copy_(torch.tensor([[0.5, -0.5]]))
        assert both_signs(net)
        assert other_sign_share(net, task) == 0
        net.out.weight.abs_()
        error = (net(task.x) - task.y).square()
    assert not both_signs(net)
    share = float(error[task.y < 0].sum() / error.sum())
    assert other_sign_share(net, task) == pytest.approx(share)
    assert 0 < share < 1


def test_a_positive_split_leaves_the_signs_as_they_are():
    task, settings = make_task(1), Settings(iterations=30, step=0.01)
    assert not both_signs(grow("s2d", task, settings, idle).net)
    assert both_signs(grow("new", task, settings, idle).net)


def test_the_command_writes_table_numbers_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "made" / "here"
    main(["--seeds", "2", "--iterations", "10", "--out", str(out), "--jobs", "1"])
    names = ["figure.png", "results.json", "results.md", "seeds.jsonl"]
    assert sorted(p.name for p in out.iterdir()) == names
    held = json.loads((out / "results.json").read_text())
    assert [seed["seed"] for seed in held["seeds"]] == [0, 1]
    assert held["summary"] == json.loads(json.dumps(summary(held["seeds"])))
    finals = [seed["arms"]["s2d"]["mse"] for seed in held["seeds"]]
    assert held["summary"]["arms"]["s2d"]["mean"] == pytest.approx(sum(finals) / 2)
    text = (out / "results.md").read_text()
    assert all(f"| {label} |" in text for label in ARMS.values())
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(command, "run", None)  # nothing is trained again
    main(["--seeds", "2", "--iterations", "10", "--out", str(out), "--jobs", "1"])
    assert json.loads((out / "results.json").read_text())["seeds"] == held["seeds"]


def test_one_seed_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--seeds", "1"])
    assert "--seeds is at least 2" in capsys.readouterr().err


def test_size_of_the_papers():
    assert sum(parameter.numel() for parameter in rbf.build(width=8).parameters()) == 24


def test_rbf_is_equation_14():
    model = rbf.build(width=3)
    inputs = torch.linspace(-5, 5, 11)
    theta = torch.cat([model.hidden.weight, model.hidden.bias[:, None]], dim=1)
    weights = model.out.weight[0]
    expected = sum(
        weights[i] * torch.exp(-((theta[i, 0] * inputs + theta[i, 1]) ** 2) / 2) for i in range(3)
    )
    torch.testing.assert_close(model(inputs[:, None])[:, 0], expected)


def test_rbf_starts_with_variance_three():
    model = rbf.build(width=20_000)
    for parameter in model.parameters():
        assert parameter.mean().item() == pytest.approx(0, abs=0.05)
        assert parameter.var().item() == pytest.approx(3, rel=0.05)
