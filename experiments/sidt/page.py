"""The tables of both studies, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.numbers import spread
from experiments.sidt.study import ARMS, FULL, MOMENTS

TITLES = {FULL: "not cut", **ARMS}


def table(
    results: Sequence[dict[str, Any]],
    measure: str,
    printed: Mapping[float, Sequence[str]],
    heads: Sequence[str],
) -> str:
    """Means and deviations over seeds, an arm and a ratio a row, beside what the thesis prints.

    Args:
        results: of a study.
        measure: what is shown, such as "accuracy".
        printed: ratio -> cells of the thesis' table.
        heads: their heads.

    Returns:
        The table.
    """
    lines = [
        "| cut | scores | before the search | after it | after the cut | after tuning | each seed "
        f"| parameters, k | MACs, M | {' | '.join(heads)} |",
        "|" + "---|" * (9 + len(heads)),
    ]
    ways = {(r["ratio"], r["arm"]): None for r in results}
    for ratio, arm in sorted(ways, key=lambda way: (way[0], list(TITLES).index(way[1]))):
        mine = [r for r in results if (r["ratio"], r["arm"]) == (ratio, arm)]
        moments = [spread([r[moment][measure] for r in mine]) for moment in MOMENTS]
        each = ", ".join(f"{r['tuned'][measure]:.1f}" for r in mine)
        params = statistics.mean(r["params"] for r in mine) / 1e3
        macs = statistics.mean(r["macs"] for r in mine) / 1e6
        cells = [f"{ratio:.0%}", TITLES[arm], *moments, each, f"{params:.0f}", f"{macs:.2f}"]
        lines.append(f"| {' | '.join([*cells, *printed[ratio]])} |")
    return "\n".join(lines)


def opening(results: Sequence[dict[str, Any]]) -> str:
    """What was done, in a sentence."""
    held = results[0]["settings"]
    seeds = sorted({result["seed"] for result in results})
    minutes = sum(result["seconds"] for result in results) / 60
    return (
        f"{held['epochs']} epochs of the full network, {held['search']} of the search (each half "
        f"of the images, two batches a step), {held['tune']} after the cut, at batch "
        f"{held['batch']}; judged by the {held['split']} images; seeds {seeds}; {minutes:.0f} "
        "minutes."
    )
