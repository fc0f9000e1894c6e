"""Errors at random lines of Ramify leave the model as it was, or as it was to be."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from benchmarks import fuzz_files
from benchmarks.faults.state import differences
from benchmarks.faults.trial import _state, lines_of, run
from benchmarks.faults.work import WORKS, new
from benchmarks.kills.__main__ import table
from benchmarks.kills.trial import Trial, content

TRIALS = 6


@pytest.mark.parametrize("name", WORKS)
def test_an_error_anywhere_leaves_the_model_whole(name: str) -> None:
    lines = lines_of(name)
    for seed in range(TRIALS):
        fault = run(name, lines, seed)
        assert not fault.wrong, fault
        assert fault.place


def test_the_comparison_sees_what_changes() -> None:
    work = new()
    before = _state(work)
    assert differences(before, _state(work)) == []
    changes = {
        ".seen": lambda: work.model.seen.append(1),
        "head.training": lambda: work.model.head.eval(),
        "stem._parameters": lambda: work.model.stem.weight.data.add_(1),
        "optimizer head.bias": lambda: next(
            work.optimizer.state[p]["exp_avg"].add_(1) for p in [work.model.head.bias]
        ),
        "process": lambda: torch.rand(1),
    }
    seen: set[str] = set()
    for name, change in changes.items():
        change()
        seen.add(name)
        assert set(differences(before, _state(work))) == seen


def test_the_fuzz_of_files_damages_and_reads(tmp_path: Path) -> None:
    readers = fuzz_files.write_all(tmp_path)
    for name, read in readers.items():
        assert fuzz_files.problem_of(read) is None
        whole = (tmp_path / name).read_bytes()
        found = {fuzz_files.damaged(random.Random(seed), whole) for seed in range(10)}
        assert len(found - {whole}) > 5
        for one in found:
            (tmp_path / name).write_bytes(one)
            assert fuzz_files.problem_of(read) is None, one[:200]
        (tmp_path / name).write_bytes(whole)

    def raw() -> None:
        raise KeyError("3")

    assert fuzz_files.problem_of(raw) == "KeyError: '3'"


def test_the_kills_compare_what_a_run_left(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"event": "epoch", "t": 1.5, "loss": 2}\n')
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = content(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"event": "epoch", "t": 7.5, "loss": 2}\n')
    assert content(tmp_path) == before
    (tmp_path / ".ramify-1-2.tmp").touch()
    assert content(tmp_path) != before
    trial = Trial("grow", 3, kills=2)
    trial.wrong("model.json is another")
    trial.wrong("it ended with 1")
    assert table([trial]).splitlines()[2] == "| grow | 1 | 2 | 0 | 0 | 0 | 0 |"
    assert trial.outcome == "model.json is another"
