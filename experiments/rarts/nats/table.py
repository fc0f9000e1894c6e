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
KEYS = ("cifar10", "cifar100", "percentile", "skips", "seconds")


def page(rows: Sequence[Row]) -> str:
    """A line for each method and remedy, as Markdown.

    Args:
        rows: of any seeds.

    Returns:
        Errors and percentiles in %, mean ± standard deviation.
    """
    lines = [
        "| method | remedy | CIFAR-10 error, % | median | CIFAR-100 error, % | percentile in the "
        "space | skips, % | seconds | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for remedy in dict.fromkeys(row["remedy"] for row in rows):
        for method, name in NAMES.items():
            mine = [r for r in rows if r["method"] == method and r["remedy"] == remedy]
            if mine:
                ten, hundred, share, skips, seconds = (_spread(mine, key) for key in KEYS)
                middle = median(row["cifar10"] for row in mine)
                lines.append(
                    f"| {name} | {remedy} | {ten} | {middle:.2f} | {hundred} | {share} | {skips} "
                    f"| {seconds} | {len(mine)} |"
                )
    return "\n".join(lines)


def _spread(rows: Sequence[Row], key: str) -> str:
    values = [row[key] for row in rows]
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"
