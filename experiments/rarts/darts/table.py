"""The results of each way to find a cell, in the form of Table 3.1 of the thesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.numbers import spread
from experiments.rarts.darts.study import FASTER, METHODS

Row = dict[str, Any]
NAMES = {"rarts": "RARTS", "darts1": "DARTS-1", "random": "a random cell"}


def page(rows: Sequence[Row]) -> str:
    """One line for each method, as Markdown.

    Args:
        rows: of any number of seeds.

    Returns:
        Test errors in %, mean ± standard deviation, the cost of the networks, the time per image,
        and how many of the 16 edges have a skip connection or a pooling operation.
    """
    lines = [
        "| cell by | seeds | test error, % | parameters | MACs, M | ms per image "
        "| skip connections | poolings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        if mine:
            cells = (
                spread(100 * (1 - row["accuracy"]) for row in mine),
                spread((row["params"] for row in mine), 0),
                spread(row["macs"] / 1e6 for row in mine),
                spread((row["latency"] for row in mine), 2),
                spread(row["kinds"].get("skip", 0) for row in mine),
                spread(row["kinds"].get("max", 0) + row["kinds"].get("avg", 0) for row in mine),
            )
            lines.append(f"| {_name(method)} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _name(method: str) -> str:
    kind = method.removesuffix(FASTER)
    return NAMES[kind] if kind == method else f"{NAMES[kind]}, expected latency"
