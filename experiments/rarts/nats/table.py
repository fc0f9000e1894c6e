"""The cells found, in the form of Table 3.3 of the thesis, with the published accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from experiments.numbers import spread

Row = dict[str, Any]

NAMES = {
    "rarts": "RARTS",
    "darts1": "DARTS-1",
    "darts2": "DARTS-2",
    "milenas": "MiLeNAS",
    "joint": "Joint",
    "random": "random search",
}
CHOICES = {
    "cell": "mixing weights",
    "never none": "mixing weights, never `none`",
    "perturbed": "perturbation",
}
KEYS = ("cifar10", "cifar100", "percentile", "skips", "seconds")


def page(rows: Sequence[Row]) -> str:
    """One line for each method and way to choose operations, as Markdown.

    Args:
        rows: of any number of seeds.

    Returns:
        Errors and percentiles in %, mean ± standard deviation.
    """
    lines = [
        "| method | operations by | CIFAR-10 error, % | median | CIFAR-100 error, % "
        "| percentile in the space | skips, % | seconds | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for choice in dict.fromkeys(row["choice"] for row in rows):
        for method, name in NAMES.items():
            mine = [r for r in rows if r["method"] == method and r["choice"] == choice]
            if mine:
                ten, hundred, share, skips, seconds = (
                    spread(row[key] for row in mine) for key in KEYS
                )
                middle = median(row["cifar10"] for row in mine)
                lines.append(
                    f"| {name} | {CHOICES[choice]} | {ten} | {middle:.2f} | {hundred} | {share} "
                    f"| {skips} | {seconds} | {len(mine)} |"
                )
    return "\n".join(lines)


def steps_table(rows: Sequence[Row]) -> str:
    """The results of the searches if they had ended earlier, as Markdown.

    Args:
        rows: from `over_steps`, of any number of seeds.

    Returns:
        One line for each method and way to choose operations: errors on CIFAR-10 and, in brackets,
        the share of skip connections, in %, mean ± standard deviation, after the first epoch and
        each quarter.
    """
    every = sorted({row["steps"] for row in rows})
    shown = sorted({every[0], *(every[-(-len(every) * k // 4) - 1] for k in range(1, 5))})
    heads = " | ".join(f"{steps:,} steps" for steps in shown)
    lines = [f"| method | operations by | {heads} |", "|---|---|" + "---|" * len(shown)]
    for choice in dict.fromkeys(row["choice"] for row in rows):
        for method, name in NAMES.items():
            mine = [r for r in rows if r["method"] == method and r["choice"] == choice]
            if mine:
                each = [[row for row in mine if row["steps"] == steps] for steps in shown]
                cells = [
                    f"{spread(r['cifar10'] for r in own)} ({spread(r['skips'] for r in own)})"
                    for own in each
                ]
                lines.append(f"| {name} | {CHOICES[choice]} | {' | '.join(cells)} |")
    return "\n".join(lines)
