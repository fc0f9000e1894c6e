"""The signed toy RBF experiment: its arms, its look at one choice and its command, tiny."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import ramify
from experiments.s2d.rbf.arms import Settings
from experiments.s2d.rbf.task import make_task, mse, network, stream
from experiments.s2d.rbf.training import fit, optimizer_of
from experiments.s3d.rbf.__main__ import main
from experiments.s3d.rbf.arms import ARMS, NEURONS, ends, grow, propose
from experiments.s3d.rbf.study import choice, line
from experiments.s3d.rbf.table import summary

TINY = Settings(iterations=100)


def idle(_: int) -> None:
    pass


@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_reaches_the_same_size_by_its_own_copies(name):
    arm, task = ARMS[name], make_task(1)
    path = grow(arm, task, TINY, idle)
    assert path.widths[0] == 1
    assert path.widths[-1] == path.net.hidden.out_features == NEURONS
    assert all(b - a < arm.copies for a, b in pairwise(path.widths))  # a definite matrix needs 3
    assert len(path.curve) == NEURONS  # a point for the 100 iterations of each neuron more
    assert path.phases[-1] == pytest.approx(mse(path.net, task))
    assert len(path.differs) == len(path.negative) == len(path.rising) == len(path.widths) - 1
    if name == "s2d":
        assert not any(path.differs)
        assert not any(path.negative)
    else:
        assert not any(path.rising)


def test_signed_splits_go_on_where_every_index_is_positive():
    task, net = make_task(3), network(2, stream(3, "test"))
    with torch.no_grad():  # a fit 0.1 too low under two bumps: σ'' is negative at their tops
        net.hidden.weight.fill_(0.05)
        net.hidden.bias.copy_(torch.tensor([0.0, 0.1]))
        net.out.weight.fill_(1.0)
        low = type(task)(task.seed, task.truth, task.x, net(task.x) + 0.1)
    graph, before = ramify.trace(net, task.x), mse(net, low)
    assert (ends(graph, low)[0] > 0).all()
    assert all(p.gain < 0 for p in propose(graph, low, ARMS["s2d"], 0.01))
    best = propose(graph, low, ARMS["m2"], 0.01)[0]
    ramify.apply(graph, [best.edit])
    assert before - mse(net, low) == pytest.approx(best.gain, rel=0.05)
    assert best.gain > 0


def test_the_choice_is_that_of_the_ends():
    task, net = make_task(0), network(4, stream(0, "test"))
    fit(net, task, optimizer_of(net), 300, idle)
    stage = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    held = choice(stage, task, TINY, idle)
    assert held["s2d"]["channel"] == held["low"].index(min(held["low"]))
    if held["m2"]["negative"]:
        assert held["m2"]["channel"] == held["high"].index(max(held["high"]))
    points = torch.tensor(held["x"]).double()
    torch.testing.assert_close(points, line(task.reach)[:, 0])
    assert len(held["before"]) == len(held["s2d"]["curve"]) == len(points)


def test_the_command_writes_table_numbers_and_figure(tmp_path: Path):
    main(["--seeds", "2", "--iterations", "15", "--out", str(tmp_path), "--jobs", "1"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "figure.png",
        "results.json",
        "results.md",
        "seeds.jsonl",
    ]
    held = json.loads((tmp_path / "results.json").read_text())
    assert held["summary"] == json.loads(json.dumps(summary(held["seeds"])))
    ours, theirs = ([seed["arms"][arm]["mse"] for seed in held["seeds"]] for arm in ("m2", "s2d"))
    lower = sum(a < b for a, b in zip(ours, theirs, strict=True))
    assert held["summary"]["m2"]["lower"] == lower
    text = (tmp_path / "results.md").read_text()
    assert all(f"| {arm.label} |" in text for arm in ARMS.values())
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
