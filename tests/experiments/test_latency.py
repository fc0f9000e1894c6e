"""The latency study at the smallest size: from the table to the figure, gone on with."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.rarts.latency import __main__ as command
from experiments.rarts.latency import study
from experiments.rarts.latency.figure import figure
from experiments.rarts.latency.table import page
from ramify.cells import DARTS
from ramify.cells.derive import random_genotype
from ramify.data import Dataset
from ramify.latency import Latency

TINY = "--searcher darts1 --channels 2 --cells 3 --samples 16 --batch 8 --epochs 1".split()


@pytest.fixture(autouse=True)
def images(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.randn(20, 3, 8, 8), torch.arange(20) % 10
    made = Dataset("d", *data, *data, tuple("abcdefghij"))
    monkeypatch.setattr(study, "load", lambda name: made)
    monkeypatch.setattr(study, "_image", lambda: torch.zeros(1, 3, 8, 8))
    monkeypatch.setattr(study, "REPEATS", 1)


def test_the_command_goes_on_from_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "--large_channels 4 --large_cells 3 --gammas 0,5 --out".split()
    command.main([*TINY, *small, str(tmp_path), "--seeds", "1"])
    first = (tmp_path / "results.md").read_text()
    assert (tmp_path / "latency.png").stat().st_size > 10_000
    for name in ("run", "timed"):
        monkeypatch.setattr(command, name, lambda *args: pytest.fail("nothing was left to do"))
    command.main([*TINY, *small, str(tmp_path), "--seeds", "1"])
    assert (tmp_path / "results.md").read_text() == first
    assert len(first.splitlines()) == 4


def test_the_sum_over_the_table_is_that_of_the_operations(tmp_path: Path) -> None:
    settings = replace(study.Settings(), channels=2, cells=3, large_channels=2, large_cells=3)
    genotype = random_genotype(DARTS, 0)
    found = study.made_of(genotype.text, settings, tmp_path)
    table = study.table(settings, tmp_path / "latency.json")
    # Of three cells, the first is normal at 2 channels and 8 pixels; two reduce to 4 and 8.
    total = 0.0
    for kind, places in (("normal", [(2, 8, 1)]), ("reduce", [(4, 8, 2), (8, 4, 2)])):
        for name, source in (edge for edges in genotype[kind] for edge in edges):
            for channels, size, stride in places:
                inner = source >= 2
                size_here = size // stride if inner else size
                place = (channels, size_here, size_here, 1 if inner else stride)
                total += table.times[name, place]
    assert found["summed"] == pytest.approx(total, rel=1e-4)
    assert sum(found["kinds"].values()) == 16


def test_all_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "REPEATS", 3)
    order: list[tuple[int, int]] = []

    def measure(net: torch.nn.Module, **how: Any) -> Latency:
        order.append((id(net), len(order)))
        return Latency(float(len(order)), 0.0)

    monkeypatch.setattr(study, "measure", measure)
    settings = replace(study.Settings(), channels=2, cells=3, large_channels=2, large_cells=3)
    found = study.timed([random_genotype(DARTS, seed).text for seed in (0, 1)], settings)
    nets = [net for net, _ in order]
    assert nets[:6] == nets[:2] * 3
    assert found == [  # the middle one of three turns, of two networks, at two sizes
        {"latency": 3.0, "latency_large": 9.0},
        {"latency": 4.0, "latency_large": 10.0},
    ]


def test_table_and_figure_have_a_line_for_each_weight() -> None:
    rows: list[dict[str, Any]] = [
        {"gamma": g, "seed": s, "latency": 2 - g + 0.1 * s, "summed": 1.0, "latency_large": 5.0}
        | {"kinds": {"skip": 8 + s, "sep": 8 - s}}
        for g in (0.0, 0.5)
        for s in (0, 1)
    ]
    lines = page(rows).splitlines()
    assert "2.05 ± 0.07" in lines[2]
    assert lines[2].startswith("| 0 | 2 |")
    assert lines[3].startswith("| 0.5 | 2 | 1.55 ± 0.07")
    times, made = figure(rows).axes
    assert times.lines[-1].get_ydata().tolist() == pytest.approx([2.05, 1.55])
    assert sum(bar.get_height() for bar in made.patches) == pytest.approx(32)
