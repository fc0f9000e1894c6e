"""The figure and the tables of the solvable model, at a size of a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.rarts.example_2_4 import __main__ as command
from experiments.rarts.example_2_4 import figure, study
from experiments.rarts.example_2_4.problem import closed_form


def test_the_command_writes_tables_and_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = closed_form(2, 4)
    limit = study.Limit(2, 4, (at[0] + 1e-9, at[1], at[2]), at, 7)
    assert limit.deviation == pytest.approx(1e-9, rel=1e-3)
    assert limit.ratio == pytest.approx(max(abs(v - 1) for v in at) / 0.75)
    gaps = [0.5**k for k in range(40)]
    gaps[3] = 0.3
    descent = study.Descent(2, 4, gaps, 0.5, 0.9)
    assert descent.measured == pytest.approx(0.5)
    assert descent.rise == pytest.approx(0.05)
    monkeypatch.setattr(command, "limits", lambda: [limit, limit])
    monkeypatch.setattr(command, "descents", lambda: [descent])
    monkeypatch.setattr(figure, "rarts_path", lambda *case: [(2.0, 0.0), (1.0, 1.0)])
    for module in (figure, command):
        monkeypatch.setattr(module, "other_path", lambda name: [(2.0, -2.0), (2.0, 2.0)])
    command.main(["--out", str(tmp_path)])
    text = (tmp_path / "results.md").read_text()
    assert "| 2 | 4 | 5e-02 | 0.500000 |" in text.replace("| 40 ", "")
    assert "| 1e-09 |" in text
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_paths_begin_where_they_should_and_end_near_their_limits() -> None:
    rarts = study.rarts_path(1.0, 2.0, 0.5)
    assert rarts[0] == (2.0, 0.5)
    assert rarts[-1] == pytest.approx((2.0, 0.0), abs=0.02)
    other = study.other_path("DARTS, exact, ξ = 0.5")
    assert other[0] == (2.0, -2.0)
    assert other[-1] == pytest.approx((1.0, 1.0), abs=1e-6)
