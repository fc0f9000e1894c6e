"""Formatting of results over seeds."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean, stdev


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Mean ± sample standard deviation, or just the number if there is only one."""
    found = list(values)
    if not found:
        return "–"
    if len(found) == 1:
        return f"{found[0]:,.{digits}f}"
    return f"{mean(found):,.{digits}f} ± {stdev(found):,.{digits}f}"
