"""The numbers of the theorems as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.theory.neurons import GOALS

TIMES = (10, 100, 1000, 10_000)  # steps in the table of Corollary 2.6


def page(found: Mapping[str, Any]) -> str:
    """results.md.

    Args:
        found: the results of each part of the command.

    Returns:
        Markdown.
    """
    lines = ["# Theorems against numbers: results", ""]
    for name, title in (("moving", "a) moving"), ("splitting", "b) splitting")):
        lines += [f"## S2D, Theorem 2.5, {title}", ""]
        lines += _table(["ε", "best over the theorem", "rule over best"])
        lines += [
            f"| {row['radius']:g} | {row['best'] / row['theorem']:.5f} "
            f"| {row['rule'] / row['best']:.5f} |"
            for row in found["particles"][name]
        ]
        lines.append("")
    ratios = [error / limit for error, limit in found["neurons"]["lemma"]]
    lines += [
        "## S3D, Lemma 3.2",
        "",
        f"{len(ratios)} networks; the error over the bound is at most {max(ratios):.2g}, "
        f"median {sorted(ratios)[len(ratios) // 2]:.2g}.",
        "",
        "## S3D, Theorem 3.4",
        "",
        *_table(["loss", "neurons, trained", "neurons, split alone", "the theorem, split alone"]),
        *[_goal_row(found["neurons"], goal) for goal in GOALS],
        "",
        "## S3D, Theorem B.1",
        "",
        f"Binary splits alone, from {found['neurons']['binary']['neurons'][0]} neurons.",
        "",
        *_table(["loss", "splits", "the theorem"]),
        *[_binary_row(found["neurons"]["binary"], goal) for goal in GOALS],
        "",
    ]
    for way in ("trained", "split alone", "binary"):
        shares = found["neurons"][way]["share"]
        low = min(shares, default=float("nan"))
        kept = sum(share >= 1 for share in shares)
        lines.append(
            f"- {way}: the theorem's decrease in {kept} of {len(shares)} splits, at least "
            f"{low:.2g} of it."
        )
    lines += ["", "## RARTS thesis, Corollary 2.8", ""]
    lines += _table(["η", "gap in the end", "exactly", "bound", "end over η"])
    lines += [
        f"| {row['rate']:.4f} | {row['end']:.5f} | {row['floor']:.5f} | {row['bound']:.4f} "
        f"| {row['end'] / row['rate']:.3f} |"
        for row in found["noise"]
    ]
    lines += ["", "## RARTS thesis, Corollary 2.6 (ii)", ""]
    lines += _table(["step", "gap", "bound"])
    gaps, bounds = found["convex"]["gap"], found["convex"]["bound"]
    lines += [
        f"| {step} | {gaps[step - 1]:.2g} | {bounds[step - 1]:.3g} |"
        for step in TIMES
        if step <= len(gaps)
    ]
    lines += ["", "## Gauss-Newton, Theorems 1 and 2", ""]
    lines += _table(["rank", "paper over true, mean", "largest", "off 1 towards a solution"])
    lines += [
        f"| {row['rank']} | {sum(row['shares']) / len(row['shares']):.3f} "
        f"| {max(row['shares']):.3f} | {row['off']:.0e} |"
        for row in found["curvature"]
    ]
    return "\n".join(lines) + "\n"


def _table(heads: list[str]) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]


def _goal_row(found: Mapping[str, Any], goal: float) -> str:
    cells = []
    for way in ("trained", "split alone"):
        pairs = zip(found[way]["neurons"], found[way]["loss"], strict=True)
        reached = [neurons for neurons, loss in pairs if loss <= goal]
        cells.append(str(reached[0]) if reached else f"more than {found[way]['neurons'][-1]}")
    return (
        f"| {goal:g} | {cells[0]} | {cells[1]} "
        f"| {2 * found['split alone']['allowed'][str(goal)] + 1:,} |"
    )


def _binary_row(found: Mapping[str, Any], goal: float) -> str:
    reached = [number for number, loss in enumerate(found["loss"]) if loss <= goal]
    splits = str(reached[0]) if reached else f"more than {len(found['share'])}"
    return f"| {goal:g} | {splits} | {found['allowed'][str(goal)]:,} |"
