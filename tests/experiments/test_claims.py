"""The table of claims: every figure and table of the four works, no empty cell, links that lead."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "experiments" / "README.md"
WORKS = {  # work -> figures, tables
    "S2D": (["1", "2", "3", "4"], ["1"]),
    "S3D": (["1", "2", "3", "4", "5"], ["1", "2", "3", "4"]),
    "Gauss-Newton": (["1", "2", "3", "4"], ["1", "2"]),
    "RARTS thesis": (
        ["2.1", "3.1", "4.1", "4.2"],
        ["3.1", "3.2", "3.3", "4.1", "4.2", "4.3", "4.4", "4.5", "4.6"],
    ),
}
VERDICTS = ("reproduced", "not reproduced", "not at this size", "nothing to measure")


def rows() -> list[list[str]]:
    _, section = PAGE.read_text().split("## Every figure and table of the four works")
    lines = [line for line in section.splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_figure_and_table_has_a_verdict() -> None:
    held = [row for row in rows() if row[0] not in ("figure or table", "theorem")]
    assert all(cell for row in held for cell in row)
    claims = [row for row in held if len(row) == 4]
    assert all(row[2].startswith(VERDICTS) for row in claims)
    for work, kinds in WORKS.items():
        named = " ".join(row[0] for row in claims if row[0].startswith(f"{work}, "))
        for kind, numbers in zip(("Figure", "Table"), kinds, strict=True):
            found = re.findall(rf"{kind} ([\d.]+)", named)
            assert sorted(set(found)) == numbers, work


def test_its_links_and_tests_are_there() -> None:
    text = PAGE.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (PAGE.parent / target).exists(), target
    for target in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (PAGE.parents[1] / target).exists(), target
