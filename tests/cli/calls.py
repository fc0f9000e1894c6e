"""Commands called within the process, in an empty folder, on a small data set."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from ramify.cli import app
from ramify.commands.display import Display
from ramify.data import Dataset
from ramify.data import load as load_named
from ramify.models import build

GROW = "--data digits --width 2 --rounds 1 --epochs 1 --probe-samples 20 --batch-size 15".split()
"""A small run of grow."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, on noisy copies of three images."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(60) % 3
    images = torch.randn(3, 1, 8, 8, generator=generator)[labels]
    images = images + 0.5 * torch.randn(60, 1, 8, 8, generator=generator)
    data = Dataset("d", images[:45], labels[:45], images[45:], labels[45:], ("a", "b", "c"))

    def load(name: str, **named: str) -> Dataset:
        return data if name == "digits" else load_named(name, **named)

    monkeypatch.setattr("ramify.commands.show.load", load)
    monkeypatch.setattr("ramify.commands.jobs.load", load)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(result: Result, pattern: str) -> None:
    """One clean sentence on standard error, exit code 2."""
    assert result.exit_code == 2, result.output
    assert re.fullmatch(rf"error: .*{pattern}.*\n", result.stderr), result.stderr
    assert "Traceback" not in result.output


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C behind the event of that number."""
    original: Callable[[Display, dict[str, Any]], None] = Display.event
    left = [after]

    def event(self: Display, seen: dict[str, Any]) -> None:
        original(self, seen)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Display, "event", event)


def seed_network() -> nn.Module:
    return build("digits_net", dataset_shape=(1, 8, 8), classes=3, width=2)


def timeless(run: str) -> list[Any]:
    def cut(value: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in value.items() if k not in ("t", "seconds")}

    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    rows = json.loads(Path(run, "summary.json").read_text())["rows"]
    return [cut(json.loads(line)) for line in lines] + [cut(row) for row in rows]
