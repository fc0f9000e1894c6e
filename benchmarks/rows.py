"""Rows of results, one per line of a file, so that an interrupted run can resume."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, in order; none if it does not exist."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def add_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a file, whose folder is created if it does not exist."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as opened:
        opened.writelines(json.dumps(row) + "\n" for row in rows)


def mean_and_error(values: Sequence[float]) -> str:
    """Mean ± standard error to two places; one value alone, or a dash for none."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):.2f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}"
