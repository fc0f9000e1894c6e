"""The cells found, as Table 3.3 of the thesis has them: by the published accuracies."""

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
    """A line for each method and way to choose operations, as Markdown.

    Args:
        rows: of any seeds.

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
