"""The page that compares several runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from ramify.latency import Latency
from ramify.report.compare_figures import front_figure
from ramify.report.comparison import (
    COSTS,
    ArmResult,
    as_csv,
    as_markdown,
    best_words,
    differences,
    front,
    networks_of,
    texts,
)
from ramify.report.events import explained
from ramify.report.headline import Tile, counted
from ramify.report.reader import RunRecord
from ramify.report.templates import filled
from ramify.report.theme import picture


def render_comparison(
    records: Mapping[str, RunRecord],
    measured: Mapping[str, Mapping[str, Latency]],
    links: Mapping[str, str],
    notes: Sequence[str] = (),
) -> str:
    """The page as text.

    Args:
        records: the contents of the run folders, by the name of the run.
        measured: for some of these names, the latency of jobs by their names.
        links: for some of these names, the path of the run's page, relative to this one.
        notes: sentences for the top of the page.

    Returns:
        Self-contained HTML.
    """
    networks = networks_of(records, measured)
    sets: dict[tuple[str, str], list[ArmResult]] = {}
    for network in networks:
        sets.setdefault((network.data, network.metric.key), []).append(network)
    heads, rows = differences(records)
    clocks = {(one.device, one.threads) for own in measured.values() for one in own.values()}
    return filled(
        "compare.html.j2",
        title=f"{counted(len(records), 'run')} compared",
        notes=notes,
        unfinished=[name for name, record in records.items() if not record.finished],
        sets=[_data_set(data, own, links) for (data, _), own in sets.items()],
        heads=heads,
        rows=rows,
        clocks=[f"{device}, {counted(threads, 'thread')}" for device, threads in sorted(clocks)],
        commands="\n".join(one.command_line for one in records.values() if one.command_line),
        markdown=as_markdown(networks),
        csv=as_csv(networks),
    )


def _data_set(name: str, networks: Sequence[ArmResult], links: Mapping[str, str]) -> dict[str, Any]:
    """The part of the page about one data set; networks of different ones are not comparable."""
    metric = networks[0].metric
    words = metric.words
    fronts = {cost: front(networks, cost) for cost in COSTS}
    heads, rows = texts(networks)
    beaten = [len(known) for known in fronts.values() if known]
    shown = [Tile(*words) for words in best_words(networks)]
    on_one = {one.number for known in fronts.values() for one in known}
    note = "no other is both better and cheaper"
    shown.append(Tile(f"{len(on_one)} of {len(networks)}", "networks on a front", note))
    return {
        "name": name,
        "metric": words,
        "side": "lower" if metric.higher else "upper",
        "tiles": shown if beaten else [],
        "figures": [
            picture(front_figure(networks, cost), f"Test {words} against {COSTS[cost]}, {name}")
            for cost, known in fronts.items()
            if known
        ],
        "heads": heads,
        "rows": [
            {
                "number": one.number,
                "link": links.get(one.run),
                "texts": row,
                "words": explained(one.arm),
                "main": one.main,
                "on": ", ".join(COSTS[cost] for cost, known in fronts.items() if one in known),
            }
            for one, row in zip(networks, rows, strict=True)
        ],
    }
