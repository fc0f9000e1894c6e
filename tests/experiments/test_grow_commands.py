"""The smoke tests of the experiments that are run by `ramify grow`, as printed on their pages."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments.s2d.points import shapes
from ramify.cli import app
from ramify.commands.display import Display
from tests.experiments.test_speech import write_splits

PAGES = Path(__file__).parents[2] / "experiments"
FOLDERS = ("s2d/cifar10", "s2d/speech", "s2d/points", "s3d/cifar")
FEW = "--batch-size 8 --probe-samples 8".split()


def small_form(folder: str) -> list[str]:
    """The first command of a page, and the options that make it small."""
    text = (PAGES / folder / "README.md").read_text()
    [command, *_] = re.findall(r"^(?:RAMIFY_DATA=DIR )?ramify (grow(?:.*\\\n)*.*)", text, re.M)
    [options] = re.findall(r"Smoke test[^`]*`(--[^`]*)`", text)
    return [*shlex.split(command.replace("\\\n", " ")), *shlex.split(options)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few samples of every data set, and no page, which takes longer than all else."""
    generator = np.random.default_rng(0)
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        arrays: dict[str, Any] = {}
        for split, count in (("train", 24), ("test", 8)):
            pixels = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            arrays |= {f"x_{split}": pixels, f"y_{split}": generator.integers(0, classes, count)}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    write_splits(tmp_path / "fsdd")
    monkeypatch.setenv("RAMIFY_DATA", str(tmp_path))
    monkeypatch.setattr(shapes, "TRAIN", 2)
    monkeypatch.setattr(shapes, "TEST", 1)
    monkeypatch.setattr("ramify.cli.runs.write_report", lambda run: run / "report.html")


def killed_behind(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """An end behind the event of that number."""
    seen: list[object] = []
    known = Display.event

    def event(display: Display, one: dict[str, Any]) -> None:
        known(display, one)
        seen.append(one)
        if len(seen) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(Display, "event", event)


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_small_form_grows_once_and_goes_on_where_it_was_stopped(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        killed_behind(patched, 2)
        stopped = CliRunner().invoke(app, [*small_form(folder), *FEW, "--out", str(out)])
    assert "--resume" in stopped.output, stopped.output
    begun = (out / "metrics.jsonl").read_bytes()
    assert len(begun.splitlines()) >= 2
    result = CliRunner().invoke(app, ["grow", "--resume", str(out)])
    assert result.exit_code == 0, result.output
    assert "test accuracy" in result.stdout
    whole = (out / "metrics.jsonl").read_bytes()
    assert whole.startswith(begun)
    events = [json.loads(line) for line in whole.splitlines()]
    [edit] = [event for event in events if event["event"] == "edit"]
    assert edit["params_after"] > edit["params_before"]
