"""What lets the commands go on: results by their settings, and parts of a long run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.resume import finished, keep, once, stages


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


def drawn() -> dict[str, Any]:
    return {"tensors": [torch.rand(3)], "pair": (torch.rand(1), 2.5), "none": None}


def test_a_part_is_made_once_and_what_is_drawn_behind_it_is_the_same(tmp_path: Path) -> None:
    torch.manual_seed(3)
    first, behind = once("a", drawn), torch.rand(4)
    torch.manual_seed(3)
    kept = stages(tmp_path, Settings(1))("a", drawn)
    assert torch.equal(torch.rand(4), behind)
    again = stages(tmp_path, Settings(1))("a", lambda: pytest.fail("it is made again"))
    assert torch.equal(torch.rand(4), behind)
    for found in (kept, again):
        assert torch.equal(found["tensors"][0], first["tensors"][0])
        assert torch.equal(found["pair"][0], first["pair"][0])
        assert found["pair"][1:] == (2.5,)
        assert found["none"] is None


def test_parts_of_other_names_and_settings_are_apart(tmp_path: Path) -> None:
    assert stages(tmp_path, Settings(1))("a", lambda: 1) == 1
    assert stages(tmp_path, Settings(1))("b", lambda: 2) == 2
    assert stages(tmp_path, Settings(2))("a", lambda: 3) == 3
    assert stages(tmp_path, Settings(1))("a", lambda: 4) == 1


def test_a_part_that_was_stopped_leaves_nothing(tmp_path: Path) -> None:
    stage = stages(tmp_path, Settings())
    with pytest.raises(ZeroDivisionError):
        stage("a", lambda: 1 / 0)
    assert stage("a", lambda: 5) == 5
