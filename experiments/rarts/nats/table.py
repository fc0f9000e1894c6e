"""The cells found, as Table 3.3 of the thesis has them: by the published accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median, stdev
from typing import Any

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
                ten, hundred, share, skips, seconds = (_spread(mine, key) for key in KEYS)
                middle = median(row["cifar10"] for row in mine)
                lines.append(
                    f"| {name} | {CHOICES[choice]} | {ten} | {middle:.2f} | {hundred} | {share} "
                    f"| {skips} | {seconds} | {len(mine)} |"
                )
    return "\n".join(lines)


def _spread(rows: Sequence[Row], key: str) -> str:
    values = [row[key] for row in rows]
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"
