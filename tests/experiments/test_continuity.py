"""The continuity experiment at a size of seconds: the arms differ in the optimizer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ramify
from ramify import Prune, Split
from ramify.data import Dataset

pytest.importorskip("transformers", reason="needs the extra: pip install 'ramify[transformers]'")

from experiments.continuity import __main__ as command
from experiments.continuity import study
from experiments.continuity.figure import figure
from experiments.continuity.networks import NETWORKS, make_optimizer
from experiments.continuity.table import excess, page
from experiments.resume import keep

SETTINGS = study.Settings(before=2, after=3, dense=2, window=3, batch=8, probe=16)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random images in place of CIFAR-10 and MNIST."""

    def load(name: str) -> Dataset:
        shape = (3, 32, 32) if name == "cifar10" else (1, 28, 28)
        torch.manual_seed(1)
        x, y = torch.randn(48, *shape), torch.randint(0, 10, (48,))
        return Dataset(name, x[:32], y[:32], x[32:], y[32:], tuple("abcdefghij"))

    monkeypatch.setattr(study, "load", load)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("network, optimizer", [("resnet20", "adamw"), ("vit", "sgd")])
def test_arms_start_from_one_edited_network(network: str, optimizer: str) -> None:
    ticks: list[None] = []
    result = study.run(network, optimizer, 0, SETTINGS, lambda: ticks.append(None))
    assert len(ticks) == study.total_steps(optimizer, SETTINGS)
    assert (
        result["edits"]["split"]["params"] > result["params"] > result["edits"]["prune"]["params"]
    )
    for kind, edit in result["edits"].items():
        curves = edit["arms"]
        assert list(curves) == study.arms(optimizer, kind)
        assert len({curve[0] for curve in curves.values()}) == 1
        assert len({curve[-1][1] for curve in curves.values()}) == len(curves)
        assert curves["carried"][0][1] != result["none"][0][1]
        assert [row[0] for row in result["none"]] == [row[0] for row in curves["fresh"]]
    assert result["edits"]["split"]["predicted"] < 0
    assert "| split |" in page([result, result])
    assert len(figure([result]).axes) == 2


EDITS = [Split("0", 1), Prune("0", 3)]


def trained() -> tuple[ramify.ChannelGraph, torch.optim.Optimizer, list[torch.Tensor]]:
    """A network, its optimizer after a step, and the second moments."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    optimizer = make_optimizer("adamw", net, 0.01)
    net(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    old = [optimizer.state[p]["exp_avg_sq"].clone() for p in net.parameters()]
    return ramify.trace(net, torch.randn(1, 3)), optimizer, old


def test_true_moments_of_copies_follow_gradients_alone() -> None:
    graph, optimizer, old = trained()
    ever = study._as_ever(graph, EDITS, optimizer)
    ramify.apply(graph, EDITS, optimizer=optimizer)
    carried = [optimizer.state[p]["exp_avg_sq"] for p in graph.model.parameters()]
    found = [ever.get(p, optimizer.state[p]["exp_avg_sq"]) for p in graph.model.parameters()]
    assert torch.equal(found[2], old[2][:, [0, 1, 2, 1]])
    assert torch.equal(carried[2], old[2][:, [0, 1, 2, 1]] * torch.tensor([1, 4, 1, 4]))
    for moments in (carried, found):
        quarters = torch.tensor([[1.0], [0.25], [1.0], [0.25]])
        assert torch.equal(moments[0], old[0][[0, 1, 2, 1]] * quarters)
        assert torch.equal(moments[3], old[3])


def test_zeroed_are_the_tensors_of_the_edited_groups_alone() -> None:
    before, optimizer, _ = trained()
    graph = ramify.apply(before, EDITS, optimizer=optimizer)
    study._zero(graph, optimizer, [Split("0", 1)])
    states = [optimizer.state[p] for p in graph.model.parameters()]
    assert [bool(s["exp_avg"].any()) for s in states] == [False, False, False, True]
    assert all(float(s["step"]) == 1 for s in states)


def curve(*losses: float) -> list[tuple[int, float, float]]:
    return [(step, 2 * loss, loss) for step, loss in zip((0, 1, 3), losses, strict=True)]


def test_excess_leaves_out_the_edit_and_ordinary_training() -> None:
    arms = {"carried": curve(0.9, 0.7, 0.6), "fresh": curve(0.9, 1.7, 0.8)}
    result: dict[str, Any] = {
        "settings": {"window": 3},
        "none": curve(1.0, 0.8, 0.7),
        "edits": {"split": {"arms": arms}},
    }
    assert excess(result, "split", "carried") == pytest.approx([0, 0, 0])
    assert excess(result, "split", "fresh") == pytest.approx([1.0, 0.6, 0.2])
    assert excess(result, "split", "fresh", 1) == pytest.approx([2.0, 1.2, 0.4])


def test_the_command_goes_on_from_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--networks", "vit", "--optimizers", "sgd", "--seeds", "1", "--out", str(tmp_path)]
    sizes = [f"--{name}={getattr(SETTINGS, name)}" for name in vars(SETTINGS)]
    arms = dict.fromkeys(study.arms("sgd", "split"), curve(0.9, 0.7, 0.6))
    edit = {"channels": 1, "predicted": -0.1, "params": 12, "arms": arms}
    result = {
        "network": "vit",
        "optimizer": "sgd",
        "seed": 0,
        "settings": vars(SETTINGS),
        "params": 10,
        "none": curve(1.0, 0.8, 0.7),
        "edits": {"split": edit},
    }
    keep(tmp_path / "results.jsonl", SETTINGS, [result])
    monkeypatch.setattr(command, "work", None)  # nothing is left to do
    command.main([*given, *sizes])
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert NETWORKS["vit"].title in (tmp_path / "results.md").read_text()
