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
THEOREMS = {  # work -> numbers of its theorems, lemmas, corollaries, propositions and examples
    "S2D": {"2.2", "2.3", "2.4", "2.5"},
    "S3D": {"2.1", "2.2", "2.3", "3.2", "3.4", "A.1", "A.8", "B.1", "B.2"},
    "Gauss-Newton": {"1", "2"},
    "RARTS thesis": {f"2.{number}" for number in range(1, 10)},
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


def test_every_theorem_has_a_verdict() -> None:
    theorems = [row for row in rows() if len(row) == 3 and row[0] != "theorem"]
    assert all(row[1].startswith(VERDICTS) for row in theorems)
    for work, numbers in THEOREMS.items():
        named = " ".join(row[0].split(", ", 1)[1] for row in theorems if row[0].startswith(work))
        assert set(re.findall(r"(?:[AB]\.|2\.|3\.)?\d", named)) == numbers, work


def test_its_links_and_tests_are_there() -> None:
    text = PAGE.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (PAGE.parent / target).exists(), target
    for target in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (PAGE.parents[1] / target).exists(), target
