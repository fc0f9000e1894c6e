"""The tables of both studies, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.numbers import spread
from experiments.sidt.study import MOMENTS
from experiments.sidt.ways import MEASURES, way_of


def tables(
    results: Sequence[dict[str, Any]],
    measure: str,
    printed: Mapping[float, Sequence[str]],
    heads: Sequence[str],
) -> str:
    """Means and deviations over seeds, one row per way and ratio, next to the thesis' values.

    Args:
        results: of a study.
        measure: the measure to show, such as "accuracy".
        printed: share of the dimensions -> cells of the thesis' table.
        heads: the column titles of these cells.

    Returns:
        A table of the ways that cut a share of the dimensions, and one of those that cut a share of
        the parameters, which the thesis does not have; a table without rows is left out.
    """
    found = []
    for of in MEASURES:
        mine = [result for result in results if way_of(result).of == of]
        if any(result["ratio"] for result in mine):
            whole = [result for result in results if not result["ratio"]]
            mine = [*whole, *(result for result in mine if result["ratio"])]
            beside = (printed, heads) if of == MEASURES[0] else ({}, ())
            found.append(_table(mine, measure, f"cut of all {of}", *beside))
    return "\n\n".join(found)


def _table(
    results: Sequence[dict[str, Any]],
    measure: str,
    first: str,
    printed: Mapping[float, Sequence[str]],
    heads: Sequence[str],
) -> str:
    columns = [
        first, "scores", "before the search", "after it", "after the cut", "after tuning",
        "each seed", "parameters, k", "MACs, M", *heads,
    ]  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    ways = {way_of(result) for result in results}
    for way in sorted(ways, key=lambda way: (way.ratio, way.order)):
        mine = [result for result in results if way_of(result) == way]
        moments = [spread([r[moment][measure] for r in mine]) for moment in MOMENTS]
        each = ", ".join(f"{r['tuned'][measure]:.1f}" for r in mine)
        params = statistics.mean(r["params"] for r in mine) / 1e3
        macs = statistics.mean(r["macs"] for r in mine) / 1e6
        cells = [f"{way.ratio:.0%}", way.title, *moments, each, f"{params:.0f}", f"{macs:.2f}"]
        beside = printed.get(way.ratio, ["–"] * len(heads))
        lines.append(f"| {' | '.join([*cells, *beside])} |")
    return "\n".join(lines)


def opening(results: Sequence[dict[str, Any]]) -> str:
    """The setting, in one sentence."""
    held = results[0]["settings"]
    seeds = sorted({result["seed"] for result in results})
    minutes = sum(result["seconds"] for result in results) / 60
    return (
        f"{held['epochs']} epochs of the full network, {held['search']} of the search (each half "
        f"of the images, two batches a step), {held['tune']} after the cut, at batch "
        f"{held['batch']}; judged by the {held['split']} images; seeds {seeds}; {minutes:.0f} "
        "minutes."
    )
