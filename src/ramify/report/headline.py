"""Texts of a page: title, state of the run, headline numbers, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ramify.commands.grow_settings import CUT, WIDE
from ramify.commands.run_folder import command_of
from ramify.data import Metric
from ramify.errors import in_digits
from ramify.report.events import (
    MAIN,
    Event,
    by_job,
    channels_changed,
    metric_of,
    of_kind,
    unsized,
    value_of,
)
from ramify.report.reader import RunRecord
from ramify.report.tables import (
    Row,
    duration,
    measured,
    metric_text,
    results_table,
    short,
    statistic,
)

DONE = {"grow": "grown", "prune": "pruned", "retrain": "retrained", "search": "searched"}
"""The participle for a network that a command produced, by command."""

COMPARED = {
    "wide": "compared with a uniformly wider network of the same size",
    "seed": "compared with the seed network",
}
"""The arms that the main one is compared with, and the name of the difference."""


@dataclass(frozen=True)
class Tile:
    """A headline number, its meaning, and a number to compare it with."""

    value: str
    name: str
    note: str


def title(record: RunRecord) -> str:
    """The network and data of a run, if the config names them; otherwise the folder's name."""
    model, data = record.config.get("model"), record.config.get("data")
    if "space" in record.config:
        model = f"{record.config['space']} cells"
    if not (isinstance(model, str) and isinstance(data, str)):
        return record.name
    done = DONE.get(command_of(record.config), "trained")
    return f"{model} {done} on {PurePath(data).name}"


def state(record: RunRecord) -> str:
    """The progress of an unfinished run."""
    epochs = of_kind(record.events, "epoch")
    if not epochs:
        return "No epoch has ended yet."
    last, finished = epochs[-1], len(of_kind(record.events, "result"))
    metric, value = Metric.of(last), value_of(last)
    how = "" if value is None else f" with a test {metric.words} of {metric.text(value)}"
    return (
        f"So far {counted(finished, 'network')} finished; {last['job']} is at "
        f"{last['step']:,} steps{how}."
    )


def tiles(events: Sequence[Event], rows: Sequence[Row]) -> list[Tile]:
    """The headline numbers that the events and the rows of their table allow."""
    by_arm = {row["arm"]: row for row in rows}
    found = [_tested(events, by_arm)]
    found += [_difference(by_arm, "wide"), _sizes(by_arm) or _difference(by_arm, "seed")]
    found += [_parameters(events), _time(events)]
    return [tile for tile in found if tile is not None]


def _tested(events: Sequence[Event], by_arm: Mapping[str, Row]) -> Tile | None:
    seen = {event["arm"] for event in events if "arm" in event}
    arm = next((arm for arm in (*MAIN, "retrained") if arm in by_arm or arm in seen), MAIN[0])
    metric = metric_of(events)
    name = f"test {metric.words}, {arm}"
    if arm in by_arm:
        row = by_arm[arm]
        spread = "mean ± sd over " if row["n"] > 1 else ""
        return Tile(metric_text(row), name, spread + counted(row["n"], "seed"))
    epochs = [epoch for epoch in of_kind(events, "epoch") if epoch["arm"] == arm]
    if not epochs:
        return None
    last = epochs[-1]
    return Tile(metric.text(value_of(last)), name, f"so far, {last['job']}")


def _difference(by_arm: Mapping[str, Row], arm: str) -> Tile | None:
    main = next((arm for arm in MAIN if arm in by_arm), None)
    if arm not in by_arm or main is None:
        return None
    own, other = by_arm[main], by_arm[arm]
    change = Metric.of(own).difference(measured(own)["mean"], measured(other)["mean"])
    return Tile(change, COMPARED[arm], f"which has {metric_text(other)}")


def _sizes(by_arm: Mapping[str, Row]) -> Tile | None:
    """How much better the cut networks of one run are than a training run for each size."""
    pairs = [
        (measured(by_arm[arm]), measured(by_arm[other]))
        for arm in by_arm
        if arm.startswith(CUT) and (other := WIDE + arm.removeprefix(CUT)) in by_arm
    ]
    if not pairs:
        return None
    own, others = (
        statistic([one["mean"] for one in part])["mean"] for part in zip(*pairs, strict=True)
    )
    metric = Metric.of(next(iter(by_arm.values())))
    note = f"mean of {counted(len(pairs), 'size')}, {metric.text(others)} with separate runs"
    name = "cut networks of this run, compared with separate runs"
    return Tile(metric.difference(own, others), name, note)


def _parameters(events: Sequence[Event]) -> Tile | None:
    edits = of_kind(unsized(events), "edit")
    jobs = by_job(edits).values()
    if not jobs:
        return None
    before = statistic([own[0]["params_before"] for own in jobs])["mean"]
    after = statistic([own[-1]["params_after"] for own in jobs])["mean"]
    changed = channels_changed(edits).items()
    parts = [f"×{after / before:.2f}"] if before else []
    parts += [f"{count / len(jobs):,.0f} channels {word}" for word, count in changed if count]
    parts += [f"mean of {len(jobs)} networks"] if len(jobs) > 1 else []
    return Tile(f"{short(before)} → {short(after)}", "parameters", ", ".join(parts))


def _time(events: Sequence[Event]) -> Tile | None:
    results = of_kind(events, "result")
    if not results:
        return None
    total = statistic([sum(result["seconds"] for result in results)])
    return Tile(duration(total), "training time", counted(len(results), "network"))


def search_tiles(results: Sequence[Event], tested: Sequence[Event]) -> list[Tile]:
    """The headline numbers of a search: means over the found and the retrained networks."""
    name = "test accuracy, retrained"
    found = [
        Tile(metric_text(row), name, counted(row["n"], "seed")) for row in results_table(tested)
    ]
    if results:
        over = counted(len(results), "search", "searches")
        params, skips, latency = (
            statistic([event[key] for event in results])["mean"]
            for key in ("params", "skips", "latency")
        )
        total = statistic([sum(event["seconds"] for event in results)])
        known = [event["benchmark"] for event in results if "benchmark" in event]
        for key in known[0] if known else ():
            found.append(Tile(f"{statistic([one[key] for one in known])['mean']:.4g}", key, over))
        found += [
            Tile(short(params), "parameters", f"of the networks found, {over}"),
            Tile(f"{100 * skips:.1f} %", "skip ratio", "share of edges with a skip connection"),
            Tile(f"{in_digits(latency)} ms", "latency", "for one image, measured"),
            Tile(duration(total), "search time", over),
        ]
    return found[:5]


def counted(count: int, one: str, many: str = "") -> str:
    """Write a number with its noun, such as '1 seed' or '3 seeds'."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested settings into dotted names and texts."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value:
            lines.append((f"{prefix}{key}", ", ".join(str(item) for item in value)))
        else:
            text = "none" if value is None or value in ({}, []) else str(value)
            lines.append((f"{prefix}{key}", text.lower() if isinstance(value, bool) else text))
    return lines
