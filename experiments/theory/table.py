"""The numbers of the theorems as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.theory.neurons import GOALS


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
    ]
    for way in ("trained", "split alone"):
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
        f"| {goal:g} | {cells[0]} | {cells[1]} | {found['split alone']['allowed'][str(goal)]:,} |"
    )
