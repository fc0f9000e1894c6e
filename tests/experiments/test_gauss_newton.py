"""The Gauss-Newton experiments at a size of seconds: every part runs, and the tables add up."""

from __future__ import annotations

import math
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ramify
from experiments.gauss_newton.accuracy import __main__ as accuracy_command
from experiments.gauss_newton.accuracy import study as accuracy
from experiments.gauss_newton.accuracy.__main__ import page as accuracy_page
from experiments.gauss_newton.accuracy.figure import figure as accuracy_figure
from experiments.gauss_newton.cifar10 import __main__ as command
from experiments.gauss_newton.cifar10 import study
from experiments.gauss_newton.cifar10.figure import figure
from experiments.gauss_newton.cifar10.table import page, rows
from ramify.cost import graph_cost
from ramify.data import Dataset
from ramify.train.epoch import cross_entropy

PNG = b"\x89PNG"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random images in place of CIFAR-10."""
    x, y = torch.randn(72, 3, 16, 16), torch.randint(0, 10, (72,))
    classes = tuple("abcdefghij")
    made = Dataset("cifar10", x[:48], y[:48], x[48:], y[48:], classes, augment=True)
    monkeypatch.setattr(accuracy, "load", lambda name: made)
    monkeypatch.setattr(study, "load", lambda name: made)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("arm", ["gauss-newton", "s3d", "wide", "l1", "deep", "morphnet"])
def test_every_arm_keeps_its_steps_and_its_budget(arm: str) -> None:
    settings = study.Settings(
        model="resnet20", width=2, params=8_000, samples=48, tests=24, rounds=1, epochs=1, phase=1
    )
    found = study.run(arm, 0, settings)
    assert len(found["path"]) == 2
    assert found["params"] <= 8_000 * (1.01 if arm in ("wide", "morphnet") else 1)  # the nearest
    assert found["path"][-1]["params"] == found["params"]
    if arm == "s3d":
        assert found["params"] > found["path"][0]["params"]
    if arm in ("l1", "deep"):
        assert found["params"] < found["path"][0]["params"]


@pytest.mark.usefixtures("tiny")
def test_accuracy_measures_the_applied_morphisms() -> None:
    settings = accuracy.Settings(
        model="resnet20",
        width=2,
        groups=("first", "last"),
        samples=48,
        tests=24,
        epochs=1,
        phase=1,
        learners=("gauss-newton:0", "fisher:1"),
        rivals=2,
        steps=3,
    )
    result = accuracy.run(0, settings, lambda line: None) | {"settings": vars(settings)}
    kinds = {(point["learner"], point["group"], point["kind"]) for point in result["points"]}
    assert len(kinds) == 8
    prunes = {
        learner: [p for p in result["points"] if (p["learner"], p["kind"]) == (learner, "prune")]
        for learner in settings.learners
    }
    one, other = ({(p["group"], p["channel"]): p["test"] for p in of} for of in prunes.values())
    assert one == pytest.approx(other)  # a prune has nothing to learn
    ways = [*settings.learners, *accuracy.RIVALS]
    assert sorted((s["way"], s["channel"]) for s in result["splits"]) == sorted(
        (way, channel) for way in ways for channel in range(2)
    )
    assert accuracy_figure(result).startswith(PNG)
    assert "| fisher:1 | split |" in accuracy_page([result, result])


def point(kind: str, estimated: float, true: float) -> dict[str, Any]:
    place = {"learner": "fisher:1", "group": "a", "kind": kind, "channel": 0}
    return place | {"estimated": estimated, "test": true, "training": -true}


def test_summary_counts_signs_among_the_best_estimates() -> None:
    points = [point("split", -n, -2.0 * n) for n in range(1, 8)]
    points += [point("split", -9.0, 1.0), point("split", 1.0, 2.0), point("split", 2.0, 4.0)]
    (row,) = accuracy.summary(points)
    assert row["channels"] == 10
    assert row["sign"] == pytest.approx(2 / 3)
    (row,) = accuracy.summary([p for p in points if p["estimated"] != -9.0])
    assert row["r"] == pytest.approx(1)
    assert row["r training"] == pytest.approx(-1)
    assert row["slope"] == pytest.approx(2)


def test_wins() -> None:
    found = {"fisher:1": (2.0, 2.0), "line search": (1.0, 1.0), "expansion": (3.0, 1.5)}
    splits = [
        {"way": way, "channel": channel, "test": true, "training": 2 * true}
        for way, both in found.items()
        for channel, true in reversed(list(enumerate(both)))
    ]
    first, second, third = accuracy.wins(splits)
    assert first == {
        "way": "fisher:1",
        "test": 2.0,
        "training": 4.0,
        "line search": 1.0,
        "expansion": 0.5,
    }
    assert (second["expansion"], third["line search"]) == (0.0, 1.0)


def test_table_and_figure_of_the_arms() -> None:
    base = {
        "loss": 1.0,
        "params": 90,
        "macs": 1000,
        "widths": [2, 3],
        "seconds": {"training": 1.0, "editing": 0.5},
        "settings": vars(study.Settings()),
    }
    path = [{"params": 50, "accuracy": 0.3}, {"params": 90, "accuracy": 0.5}]
    results = [
        base | {"arm": arm, "seed": seed, "accuracy": 0.5 + 0.1 * seed, "path": path}
        for arm in ("s2d", "wide")
        for seed in (0, 1)
    ]
    assert {row["arm"]: round(row["mean"]) for row in rows(results)} == {"s2d": 55, "wide": 55}
    assert "50.00, 60.00" in page(results)
    assert figure(results).startswith(PNG)


def test_groups_are_found_by_place() -> None:
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 4),
        torch.nn.ReLU(),
        torch.nn.Linear(4, 5),
        torch.nn.ReLU(),
        torch.nn.Linear(5, 2),
    )
    graph = ramify.trace(net, torch.randn(1, 3))
    assert accuracy.group_at(graph, "first") == "0"
    assert accuracy.group_at(graph, "last") == "2"
    assert accuracy.group_at(graph, "2") == "2"


class Killed(Exception):
    """In place of a kill."""


def killed(*rest: object, **more: object) -> None:
    raise Killed


@pytest.mark.usefixtures("tiny")
def test_the_command_of_the_estimates_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "--model resnet20 --width 2 --groups first,last --samples 48 --tests 24 --epochs 1"
    given += " --phase 1 --rivals 1 --steps 2 --out "
    accuracy_command.main([*given.split(), str(tmp_path / "whole")])
    assert "true over" in " ".join(capsys.readouterr().out.split())
    stopped = [*given.split(), str(tmp_path / "stopped")]
    with monkeypatch.context() as patched:
        patched.setattr(accuracy, "LineSearch", killed)
        with pytest.raises(Killed):
            accuracy_command.main(stopped)
    for name in ("train", "learn", "measured"):
        monkeypatch.setattr(accuracy, name, killed)  # nothing of these is done again
    accuracy_command.main(stopped)
    whole, gone_on = ((tmp_path / n / "results.jsonl").read_bytes() for n in ("whole", "stopped"))
    assert gone_on == whole


class Here:
    """In place of the worker processes."""

    def __init__(self, *rest: object, **more: object) -> None: ...

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit(self, work: Any, *given: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*given))
        return done


@pytest.mark.usefixtures("tiny")
def test_the_command_of_the_arms_goes_on_from_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ProcessPoolExecutor", Here)
    given = "--model resnet20 --width 2 --params 8000 --samples 48 --tests 24 --rounds 1 --epochs 1"
    asked = [*given.split(), "--seeds", "1", "--out", str(tmp_path)]
    command.main([*asked, "--arms", "wide"])
    done: list[str] = []
    known = command.run
    monkeypatch.setattr(command, "run", lambda arm, *rest: done.append(arm) or known(arm, *rest))
    command.main([*asked, "--arms", "wide,l1"])
    assert done == ["l1"]
    text = (tmp_path / "results.md").read_text()
    assert "| uniformly widened |" in text
    assert "| L1 pruning |" in text
    assert "L1 pruning" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "figure.png").read_bytes().startswith(PNG)


@pytest.mark.usefixtures("tiny")
def test_an_unknown_arm_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--arms", "wide,morfnet", "--out", str(tmp_path)])
    assert "--arms takes some of gauss-newton, " in capsys.readouterr().err


def plain_net() -> tuple[torch.nn.Sequential, ramify.ChannelGraph]:
    """Channels of 20, 10 and 30, each behind a norm."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for before, after in ((3, 20), (20, 10), (10, 30)):
        layers += [torch.nn.Linear(before, after), torch.nn.BatchNorm1d(after), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(30, 2))
    return net, ramify.trace(net, torch.randn(4, 3))


@pytest.mark.parametrize(
    "arm, shares", [("uniform", (1, 1, 1)), ("shallow", (2, 1, 0)), ("deep", (0, 1, 2))]
)
def test_shares_of_the_layers_are_the_smallest_that_the_budget_allows(
    arm: str, shares: tuple[int, ...]
) -> None:
    _, graph = plain_net()
    settings = study.Settings(params=400)
    proposals = ramify.L1().propose(graph)
    rule = study.within(graph, proposals, 0.9, settings, arm)
    chosen = rule.select(proposals)
    gone = [sum(p.edit.group == group.name for p in chosen) for group in graph.groups[:3]]
    expected = [min(1.0, rule.fraction * share) for share in shares]
    for count, share, width in zip(gone, expected, (20, 10, 30), strict=True):
        assert count == min(math.ceil(share * width - 1e-9), width - 1)
    left = graph_cost(graph, [p.edit for p in chosen]).params
    assert left <= 400
    less = replace(rule, fraction=rule.fraction - 0.04).select(proposals)
    assert graph_cost(graph, [p.edit for p in less]).params > 400


def test_the_penalty_of_morphnet_follows_what_channels_cost() -> None:
    net, graph = plain_net()
    batch = (torch.randn(8, 3), torch.arange(8) % 2)
    plain = cross_entropy(net, batch)
    loss = study.penalised(graph, 0.5)(net, batch)
    costs = {1: 3 + 1 + 2 + 10, 4: 20 + 1 + 2 + 30, 7: 10 + 1 + 2 + 2}
    mean = (20 * costs[1] + 10 * costs[4] + 30 * costs[7]) / 60
    sums = sum(cost / mean * net[n].weight.abs().sum() for n, cost in costs.items())
    torch.testing.assert_close(loss, plain + 0.5 * sums)
    [first] = torch.autograd.grad(loss.mean() - plain.mean(), net[4].weight)
    torch.testing.assert_close(first, torch.full((10,), 0.5 * costs[4] / mean))


def test_morphnet_cuts_what_has_gone_and_widens_the_rest_by_one_factor() -> None:
    net, graph = plain_net()
    with torch.no_grad():
        net[1].weight[:10] = 0.001
        net[4].weight[:5] = -0.001
    settings = study.Settings(params=graph_cost(graph).params)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    graph = study._morphed(0, graph, optimizer, settings)
    widths = [group.width for group in graph.groups if group.can_split]
    # 10, 5 and 30 of 20, 10 and 30 are left.
    factor = widths[2] / 30
    assert factor > 1.3
    assert widths[0] == pytest.approx(10 * factor, abs=1)
    assert widths[1] == pytest.approx(5 * factor, abs=1)
    left = graph_cost(graph).params
    assert settings.params - 70 < left <= settings.params  # a channel of the second layer is 63
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == left
    assert float(net[1].weight.detach().abs().min()) > 0.5
