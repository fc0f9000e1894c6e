"""The table of the results at each weight of the expected latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ramify.report.cell_figures import KINDS
from ramify.report.tables import statistic

Row = dict[str, Any]


def page(rows: Sequence[Row]) -> str:
    """Mean ± sample standard deviation over the seeds, one line for each weight."""
    shown = [kind for kind in KINDS if any(kind in row["kinds"] for row in rows)]
    words = {kind: KINDS[kind] for kind in shown}
    heads = ["γ (1/ms)", "n", "latency, ms", "by the table, ms", "larger, ms", *words.values()]
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for gamma in sorted({row["gamma"] for row in rows}):
        own = [row for row in rows if row["gamma"] == gamma]
        cells = [f"{gamma:g}", str(len(own))]
        cells += [_spread([row[key] for row in own], 2) for key in COLUMNS]
        cells += [_spread([row["kinds"].get(kind, 0) for row in own], 1) for kind in shown]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


COLUMNS = ("latency", "summed", "latency_large")


def _spread(values: Sequence[float], decimals: int) -> str:
    stat = statistic(values)
    spread = "" if stat["sd"] is None else f" ± {stat['sd']:.{decimals}f}"
    return f"{stat['mean']:.{decimals}f}{spread}"
