"""The Gauss-Newton experiments at a size of seconds: every part runs, and the tables add up."""

from __future__ import annotations

from concurrent.futures import Future
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
from ramify.data import Dataset

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
@pytest.mark.parametrize("arm", ["gauss-newton", "s3d", "wide", "l1"])
def test_every_arm_keeps_its_steps_and_its_budget(arm: str) -> None:
    settings = study.Settings(
        model="resnet20", width=2, params=8_000, samples=48, tests=24, rounds=1, epochs=1, phase=1
    )
    found = study.run(arm, 0, settings)
    assert len(found["path"]) == 2
    assert found["params"] <= 8_000 * (1.01 if arm == "wide" else 1)  # the nearest uniform width
    assert found["path"][-1]["params"] == found["params"]
    if arm == "s3d":
        assert found["params"] > found["path"][0]["params"]
    if arm == "l1":
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
        curvature="fisher",
        rivals=2,
        steps=3,
    )
    result = accuracy.run(settings, lambda line: None)
    kinds = {(point["group"], point["kind"]) for point in result["points"]}
    assert len(kinds) == 4
    assert [set(row) for row in result["rivals"]] == [{"channel", *accuracy.WAYS}] * 2
    assert accuracy_figure(result).startswith(PNG)
    assert "| split |" in accuracy_page(result, 1.0)


def point(kind: str, estimated: float, true: float) -> dict[str, Any]:
    return {"group": "a", "kind": kind, "channel": 0, "estimated": estimated, "true": true}


def test_summary_counts_signs_among_the_best_estimates() -> None:
    points = [point("split", -n, -2.0 * n) for n in range(1, 8)]
    points += [point("split", -9.0, 1.0), point("split", 1.0, 2.0), point("split", 2.0, 4.0)]
    (row,) = accuracy.summary(points)
    assert row["channels"] == 10
    assert row["sign"] == pytest.approx(2 / 3)
    (row,) = accuracy.summary([p for p in points if p["estimated"] != -9.0])
    assert row["r"] == pytest.approx(1)
    assert row["slope"] == pytest.approx(2)


def test_wins() -> None:
    rows_ = [
        {"channel": 0, "gauss-newton": 2.0, "line search": 1.0, "expansion": 3.0},
        {"channel": 1, "gauss-newton": 2.0, "line search": 1.0, "expansion": 1.5},
    ]
    first, second, third = accuracy.wins(rows_)
    assert (first["best"], first["above"], first["mean"]) == ("1 of 2", "2 of 2", 2.0)
    assert (second["best"], third["above"]) == ("0 of 2", "2 of 2")


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
    for name in ("train", "learn", "_points"):
        monkeypatch.setattr(accuracy, name, killed)  # nothing of these is done again
    accuracy_command.main(stopped)
    whole, gone_on = ((tmp_path / n / "results.json").read_bytes() for n in ("whole", "stopped"))
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
