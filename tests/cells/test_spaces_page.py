"""The page "Write a search space": its file is all that the command line needs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ramify.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "spaces.md"


def test_the_file_of_the_page_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ramify.cli.runs.write_report", lambda run: run / "report.html")
    file, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    Path("my_space.py").write_text(file)
    assert "ramify search --data digits --space my_space:SPACE --out runs/mine" in PAGE.read_text()
    small = "--channels 4 --cells 1 --samples 60 --epochs 1 --searcher darts1".split()
    search = ["search", "--data", "digits", "--space", "my_space:SPACE", "--out", "runs/mine"]
    for command in ([*search, *small], ["retrain", "runs/mine", "--epochs", "1"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    genotype = json.loads(Path("runs/mine/genotype.json").read_text())
    assert genotype["space"] == "TINY"
    assert list(genotype["cells"]) == ["flat", "down"]
