"""What lets the commands go on: results by their settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.resume import finished, keep


@dataclass(frozen=True)
class Settings:
    size: int = 1


def row(size: int, seed: int) -> dict[str, object]:
    return {"seed": seed, "settings": {"size": size}}


def test_results_of_other_settings_stay_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "made" / "results.jsonl"
    assert finished(file, Settings()) == []
    keep(file, Settings(1), [row(1, 0), row(1, 1)])
    keep(file, Settings(2), [row(2, 0)])
    assert finished(file, Settings(1)) == [row(1, 0), row(1, 1)]
    assert finished(file, Settings(2)) == [row(2, 0)]
    keep(file, Settings(1), [*finished(file, Settings(1)), row(1, 2)])
    assert [result["seed"] for result in finished(file, Settings(1))] == [0, 1, 2]
    assert finished(file, Settings(2)) == [row(2, 0)]
