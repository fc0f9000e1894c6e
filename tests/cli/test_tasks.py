"""Runs of the command for tasks other than classification, from the data to the page."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ramify.cli import app
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.prune_settings import PruneSettings
from ramify.data import load
from ramify.errors import RamifyError
from ramify.models import build
from ramify.report import write_comparison
from ramify.store.model import load as load_model
from ramify.train.epoch import evaluate

OWN = """
from types import SimpleNamespace
import numpy as np
import torch
from torch import nn

draw = np.random.default_rng(0)
images = draw.normal(size=(240, 1, 6, 6)).astype("float32")
pixels = (images[:, 0] + np.roll(images[:, 0], 1, 1) > 0).astype("int64")
pixels[:, 0, 0] = -100
tokens = (draw.integers(0, 5, size=(240, 1)) + np.arange(7)) % 5
rows = draw.normal(size=(240, 4))


def split(x, y=None, **others):
    parts = {"x_train": x[:210], "x_test": x[210:]}
    parts |= {} if y is None else {"y_train": y[:210], "y_test": y[210:]}
    return SimpleNamespace(**parts, **others)


def last_column(model, batch):
    return (model(batch[0])[:, 0] - batch[1]).abs()


def worst(model, batches):
    return -max(float(last_column(model, batch).max()) for batch in batches)


segmentation, text = split(images, pixels), split(tokens)
regression = split(rows, rows[:, 0])
own = split(rows, rows[:, 0], loss=last_column, metric=worst)
deep = split(rows, rows[:, :, None], loss=lambda model, batch: model(batch[0]).square().mean(1))


class Pixels(nn.Module):
    def __init__(self, in_channels, classes, width=4):
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, x):
        return self.last(self.first(x).relu())


class Tokens(nn.Module):
    def __init__(self, classes, width=6):
        super().__init__()
        self.table, self.hidden = nn.Embedding(classes, width), nn.Linear(width, 8)
        self.last = nn.Linear(8, classes)

    def forward(self, x):
        return SimpleNamespace(logits=self.last(self.hidden(self.table(x)).relu()))
"""
FAST = "--epochs 1 --batch-size 30 --optimizer adam --lr 0.02 --threads 1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pages: None) -> Iterator[Path]:
    """A folder with a file of the user's and a table; pages that are read are written by a test."""
    (tmp_path / "own_tasks.py").write_text(OWN)
    draw = np.random.default_rng(0)
    lines = ["area,town,price"]
    for _ in range(250):
        area, town = draw.uniform(40, 200), draw.choice(["Bonn", "Ulm"])
        lines.append(f"{area:.2f},{town},{3000 * area + 50000 * (town == 'Ulm'):.0f}")
    (tmp_path / "houses.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("own_tasks", None)


def ran(line: str) -> str:
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == 0, done.output
    return done.output


def refused(line: str) -> str:
    done = CliRunner().invoke(app, line.split())
    assert re.fullmatch(r"error: .*\n", done.stderr), done.stderr
    assert not Path("bad").exists()
    return done.stderr


def events(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def page(run: str) -> str:
    ran(f"report {run}")
    return " ".join((Path(run) / "report.html").read_text().split())


def test_a_regression_on_a_table(folder: Path) -> None:
    said = ran(f"grow --data houses.csv --rounds 1 {FAST} --out grown")
    assert "test R²" in said
    assert "accuracy" not in said
    found = events("grown")
    for event in found:
        assert not [name for name in event if "accuracy" in name]
        told = {"key": "r2", "words": "R²", "higher": True, "percent": False}
        assert event["metric"] == told
    last = [e for e in found if e["event"] == "result" and e["arm"] == "grown"][-1]
    # The number of the events is that of the network that was kept.
    data = load("houses.csv")
    kept = load_model(
        folder / "grown" / "model", lambda: build("mlp", dataset_shape=(3,), classes=1, width=8)
    )
    with torch.no_grad():
        error = (kept(data.x_test)[:, 0] - data.y_test).square()
    assert last["test_loss"] == pytest.approx(float(error.mean()), rel=1e-4)
    r2 = 1 - float(error.sum() / (data.y_test - data.y_test.mean()).square().sum())
    assert last["test_r2"] == pytest.approx(r2, rel=1e-4)
    config = json.loads(Path("grown/config.json").read_text())
    assert (config["model"], config["curvature"]) == ("mlp", "gauss-newton")
    [row] = json.loads(Path("grown/summary.json").read_text())["rows"]
    assert row["test_r2"]["mean"] > -10
    said = ran("retrain grown --epochs 1")
    assert "retrained" in said
    assert "test R²" in said
    drawn = page("grown")
    assert "test R²" in drawn
    assert "retrained" in drawn
    assert "accuracy" not in drawn


def test_a_cut_as_far_as_the_metric_allows(folder: Path) -> None:
    what = f"--data houses.csv:price {FAST} --probe-samples 60 --pretrain-epochs 6"
    said = ran(f"prune {what} --accept r2=-0.05 --out cut")
    [edit] = [event for event in events("cut") if event["event"] == "edit"]
    assert edit["held_r2_after"] >= edit["held_r2_before"] - 0.05 - 1e-6
    assert edit["macs_after"] < edit["macs_before"]
    assert f"R² {edit['held_r2_before']:.4f} -> {edit['held_r2_after']:.4f} (-0.05 allowed)" in said
    assert json.loads(Path("cut/config.json").read_text())["distill"] is False
    drawn = page("cut")
    assert "test R² after fine-tuning" in drawn
    assert "accuracy" not in drawn


@pytest.mark.parametrize(
    ("data", "model", "allowed", "key", "words"),
    [
        ("segmentation", "Pixels", "iou=-40", "iou", "mean IoU"),
        ("text", "Tokens", "perplexity=3", "perplexity", "perplexity"),
        ("own", "", "worst=-2", "worst", "worst"),
    ],
)
def test_other_tasks(
    folder: Path, data: str, model: str, allowed: str, key: str, words: str
) -> None:
    what = f"--data own_tasks:{data} --model {f'own_tasks:{model}' if model else 'mlp'} {FAST}"
    said = ran(f"grow {what} --rounds 1 --method random --out grown")
    assert f"test {words}" in said
    epochs = [event for event in events("grown") if event["event"] == "epoch"]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert {f"test_{key}", f"train_{key}", "test_loss"} <= set(epochs[0])
    same_as_of_the_network(data, model or "mlp")
    said = ran(f"prune {what} --probe-samples 60 --accept {allowed} --out cut")
    [edit] = [event for event in events("cut") if event["event"] == "edit"]
    assert f"held_{key}_after" in edit
    assert f"test {words}" in said
    distilled = json.loads(Path("cut/config.json").read_text())["distill"]
    assert distilled is (data == "text")
    if data == "text":  # whose metric is the better the lower it is
        found = write_comparison([folder / "grown", folder / "cut"], folder / "both.html")
        for text in (found.read_text(), page("cut")):
            assert "accuracy" not in text
            assert "test perplexity" in text


def same_as_of_the_network(data: str, model: str) -> None:
    """The number of the last event is that of the network that was kept."""
    dataset = load(f"own_tasks:{data}")
    name = model if model == "mlp" else f"own_tasks:{model}"
    outputs = len(dataset.classes)
    net = load_model(
        Path("grown/model"), lambda: build(name, dataset_shape=dataset.shape, classes=outputs)
    )
    [result] = [event for event in events("grown") if event["event"] == "result"]
    loss, value = evaluate(net, [(dataset.x_test, dataset.y_test)], dataset.task)
    key = dataset.task.metric.key
    assert result[f"test_{key}"] == pytest.approx(value, rel=1e-4)
    assert result["test_loss"] == pytest.approx(loss, rel=1e-4)


def test_a_loss_that_knows_its_labels_alone_is_what_is_reported(folder: Path) -> None:
    said = ran(
        f"grow --data own_tasks:deep --model mlp --rounds 1 {FAST} --method random --out grown"
    )
    assert "test loss" in said
    epochs = [event for event in events("grown") if event["event"] == "epoch"]
    assert epochs[-1]["train_loss"] != epochs[-1]["test_loss"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("grow --data houses.csv:prise", "no column 'prise' (did you mean 'price'?)"),
        ("grow --data houses.csv --task regresion", "there is no task 'regresion' (did you mean"),
        ("grow --data houses.csv --task text", "a table is for a classification or a regression"),
        ("grow --data houses.csv --label-smoothing 0.1", "task of houses.csv is regression; leave"),
        ("grow --data own_tasks:own --model mlp --label-smoothing 0.1", "a loss of its own; leave"),
        (
            "prune --data houses.csv --distill",
            "of text, but the task of houses.csv",
        ),
        (
            "prune --data houses.csv --accept accuracy=-1",
            "accept must be r2 or loss, but got 'accur",
        ),
        ("prune --data houses.csv --accept r2=0.1", "is not to be surpassed: give r2=-0.1"),
        ("prune --data own_tasks:own --model mlp --accept r2=-1", "accept must be worst or loss"),
        (
            "grow --data own_tasks:regression",
            "rows of numbers, for which the built-in model is mlp",
        ),
        ("grow --data own_tasks:segmentation", "supports segmentation: give"),
        ("search --data own_tasks:segmentation", "cells support only classif"),
        ("grow --data own_tasks:text --task classification", "without y_train, y_test: give an"),
    ],
)
def test_what_does_not_go_with_a_task_is_refused_in_a_sentence(
    folder: Path, line: str, message: str
) -> None:
    assert message in refused(f"{line} --out bad")


def test_settings_that_are_given_stay(folder: Path) -> None:
    data = load("houses.csv")
    given = {"data": "houses.csv", "curvature": "fisher"}
    assert GrowSettings.resolve(given).suited(data, given).curvature == "fisher"
    given = {"data": "houses.csv", "temperature": 2.0}
    with pytest.raises(RamifyError, match="distill needs the softmax"):
        PruneSettings.resolve(given).suited(data, given)
