"""What a page says in words: title, state of the run, headline numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ramify.commands.folder import command_of
from ramify.report.figures import by_job, kinds
from ramify.report.reader import Event, RunRecord
from ramify.report.tables import Row, duration, percent, short, statistic
from ramify.report.theme import MAIN

DONE = {"grow": "grown", "prune": "pruned", "retrain": "retrained", "search": "searched"}
"""What was done to a network, by the command that did it."""


@dataclass(frozen=True)
class Tile:
    """A headline number with what it is and what to hold it against."""

    value: str
    name: str
    note: str


def title(record: RunRecord) -> str:
    """What was trained on which data, as far as the config says; else the folder's name."""
    model, data = record.config.get("model"), record.config.get("data")
    if "space" in record.config:
        model = f"{record.config['space']} cells"
    if not (isinstance(model, str) and isinstance(data, str)):
        return record.name
    done = DONE.get(command_of(record.config), "trained")
    return f"{model} {done} on {PurePath(data).name}"


def state(record: RunRecord) -> str:
    """How far an unfinished run had come."""
    epochs = kinds(record.events, "epoch")
    if not epochs:
        return "No epoch has ended yet."
    last = epochs[-1]
    done = len(kinds(record.events, "result"))
    tested = "test_accuracy" in last
    how = f" with a test accuracy of {100 * last['test_accuracy']:.2f} %" if tested else ""
    return (
        f"So far {counted(done, 'network')} finished; {last['job']} stood at "
        f"{last['step']:,} steps{how}."
    )


def tiles(events: Sequence[Event], rows: Sequence[Row]) -> list[Tile]:
    """The headline numbers that the events allow.

    Args:
        events: all events of a run.
        rows: their aggregation.

    Returns:
        At most five, the most telling first.
    """
    by_arm = {row["arm"]: row for row in rows}
    found = [
        _accuracy(events, by_arm),
        _difference(by_arm, "baseline", "against the full network"),
        _difference(by_arm, "wide", "against an equally large, uniformly wider network"),
        _difference(by_arm, "seed", "against the seed network"),
        _parameters(events),
        _time(events),
    ]
    return [tile for tile in found if tile is not None]


def _accuracy(events: Sequence[Event], by_arm: Mapping[str, Row]) -> Tile | None:
    seen = {event["arm"] for event in events if "arm" in event}
    arm = next((arm for arm in (*MAIN, "retrained") if arm in by_arm or arm in seen), MAIN[0])
    name = f"test accuracy, {arm}"
    if arm in by_arm:
        row = by_arm[arm]
        spread = "mean ± sd over " if row["n"] > 1 else ""
        return Tile(percent(row["test_accuracy"]), name, spread + counted(row["n"], "seed"))
    epochs = [epoch for epoch in kinds(events, "epoch") if epoch["arm"] == arm]
    if not epochs:
        return None
    last = epochs[-1]
    return Tile(f"{100 * last['test_accuracy']:.2f} %", name, f"so far, {last['job']}")


def _difference(by_arm: Mapping[str, Row], arm: str, name: str) -> Tile | None:
    main = next((arm for arm in MAIN if arm in by_arm), None)
    if arm not in by_arm or main is None:
        return None
    own, other = by_arm[main]["test_accuracy"], by_arm[arm]["test_accuracy"]
    points = 100 * (own["mean"] - other["mean"])
    return Tile(f"{points:+.2f} points".replace("-", "−"), name, f"which has {percent(other)}")


def _parameters(events: Sequence[Event]) -> Tile | None:
    jobs = by_job(kinds(events, "edit")).values()
    if not jobs:
        return None
    before = statistic([edits[0]["params_before"] for edits in jobs])["mean"]
    after = statistic([edits[-1]["params_after"] for edits in jobs])["mean"]
    times = after / before if before else math.nan
    parts = []
    for word, made in (("split", made_splits), ("pruned", made_prunes)):
        counts = [sum(made(edit) for edit in edits) for edits in jobs]
        if any(counts):
            parts.append(f"{statistic(counts)['mean']:,.0f} channels {word}")
    split = ", ".join(parts)
    where = f", mean of {len(jobs)} networks" if len(jobs) > 1 else ""
    return Tile(f"{short(before)} → {short(after)}", "parameters", f"×{times:.2f}, {split}{where}")


def made_splits(edit: Event) -> int:
    """How many channels an edit split."""
    return sum(p["selected"] and p["copies"] > 0 for p in edit["proposals"])


def made_prunes(edit: Event) -> int:
    """How many channels an edit pruned."""
    return sum(p["selected"] and p["copies"] == 0 for p in edit["proposals"])


def _time(events: Sequence[Event]) -> Tile | None:
    results = kinds(events, "result")
    if not results:
        return None
    total = statistic([sum(result["seconds"] for result in results)])
    return Tile(duration(total), "training time", counted(len(results), "network"))


def counted(count: int, noun: str) -> str:
    """Write a number with its noun.

    Args:
        count: how many.
        noun: of what, in the singular.

    Returns:
        Both, the noun in the plural unless there is one.

    Example:
        >>> counted(1, "seed"), counted(3, "seed")
        ('1 seed', '3 seeds')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Unfold nested settings.

    Args:
        values: settings, some of them mappings themselves.
        prefix: goes in front of every name.

    Returns:
        Dotted names and texts.

    Example:
        >>> flatten({"lr": 0.1, "rule": {"name": "top", "share": None}})
        [('lr', '0.1'), ('rule.name', 'top'), ('rule.share', 'none')]
    """
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
