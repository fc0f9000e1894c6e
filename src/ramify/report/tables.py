"""The comparison of arms: pure aggregation over seeds, and the same table for a terminal."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ramify.data import Metric
from ramify.report.events import MAIN, Event, arms_of, value_of
from ramify.report.reader import read_events
from ramify.store.files import write_json
from ramify.train.history import is_found

_IN_FULL = 1e5  # smaller counts keep all their digits
_UNITS = ((1e9, " G"), (1e6, " M"), (1e3, " k"))


class Stat(TypedDict):
    """A mean over seeds; ``sd`` is the sample standard deviation, None for a single seed."""

    mean: float
    sd: float | None


class Row(TypedDict):
    """One arm of the comparison: its number of seeds and each quantity over them.

    A metric other than accuracy is described under ``metric`` and has its own key, such as
    ``test_r2``.
    """

    arm: str
    n: int
    metric: NotRequired[dict[str, Any]]
    test_accuracy: NotRequired[Stat]
    test_loss: Stat
    params: Stat
    macs: Stat
    steps: Stat
    seconds: Stat


QUANTITIES = ("test_loss", "params", "macs", "steps", "seconds")  # after the metric


def statistic(values: Sequence[float]) -> Stat:
    """Mean and sample standard deviation, ``sqrt(sum((x - mean)^2) / (n - 1))``.

    Args:
        values: at least one number.

    Returns:
        Both; the deviation is None for one number.

    Example:
        >>> statistic([1.0, 3.0])
        {'mean': 2.0, 'sd': 1.4142135623730951}
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return {"mean": mean, "sd": None}
    squares = math.fsum((value - mean) ** 2 for value in values)
    return {"mean": mean, "sd": math.sqrt(squares / (n - 1))}


def results_table(events: Iterable[Event]) -> list[Row]:
    """Aggregate the results of finished jobs that were tested, one row for each arm.

    Args:
        events: the events of a run.

    Returns:
        Rows of plain JSON values in the order seed, grown, scratch, wide, then any other arm;
        an arm without a finished job has no row.

    Example:
        >>> result = {"event": "result", "arm": "seed", "test_accuracy": 0.5, "test_loss": 1.0,
        ...           "params": 10, "macs": 20, "steps": 5, "seconds": 1.5}
        >>> results_table([result, {**result, "test_accuracy": 0.7}])[0]["test_accuracy"]["mean"]
        0.6
    """
    results = [e for e in events if e["event"] == "result" and value_of(e) is not None]
    rows = []
    for arm in arms_of(results):
        own = [result for result in results if result["arm"] == arm]
        metric = Metric.of(own[0])
        keys = dict.fromkeys((f"test_{metric.key}", *QUANTITIES))
        stats = {key: statistic([result[key] for result in own]) for key in keys}
        rows.append(cast(Row, {"arm": arm, "n": len(own), **metric.tags(), **stats}))
    return rows


def measured(row: Row) -> Stat:
    """The metric of a row over seeds."""
    return cast(Stat, row.get(f"test_{Metric.of(row).key}"))


def write_summary(run: Path) -> Path:
    """Write ``summary.json``, which marks a run as finished.

    It holds the table, why networks stopped, and what searches found.

    Args:
        run: the run folder.

    Returns:
        The path of the file, which is written atomically.

    Raises:
        RamifyError: ``metrics.jsonl`` is damaged.
    """
    events = read_events(run)
    stops = {e["job"]: e["reason"] for e in events if e["event"] == "stop" and e["arm"] == "grown"}
    found = {e["job"]: e["genotype"] for e in events if is_found(e)}
    summary = {"rows": results_table(events), "stopped": stops}
    summary |= {"found": found} if found else {}
    path = Path(run) / "summary.json"
    write_json(path, summary)
    return path


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print the comparison to a terminal."""
    table = Table(
        box=SIMPLE_HEAD,
        caption=_caption(rows),
        caption_justify="left",
        collapse_padding=True,  # so that it fits into 80 columns
        pad_edge=False,
    )
    table.add_column("network", style="bold", no_wrap=True)
    for heading in headings(rows):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["arm"], *row_texts(row), style="green" if row["arm"] in MAIN else None)
    console.print(table)


def _caption(rows: Sequence[Row]) -> str:
    counts = sorted({row["n"] for row in rows})
    if not counts:
        return "No network is finished yet."
    if counts == [1]:
        return "results of one random seed"
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"mean ± sample standard deviation over n = {n} seeds"


def headings(rows: Iterable[Row]) -> tuple[str, str, str, str, str]:
    """The column heads for the texts of rows."""
    words = Metric.of(next(iter(rows), {})).words
    return f"test {words}", "parameters", "MACs", "steps", "time"


def row_texts(row: Row) -> tuple[str, str, str, str, str]:
    """A row as text: the metric, parameters, MACs, steps, time."""
    return (
        metric_text(row),
        whole(row["params"]),
        whole(row["macs"]),
        whole(row["steps"]),
        duration(row["seconds"]),
    )


def metric_text(row: Row) -> str:
    """Write the metric of a row, such as '93.16 ± 0.42 %' for accuracy."""
    stat = measured(row)
    return Metric.of(row).text(stat["mean"], stat["sd"])


def whole(stat: Stat) -> str:
    """Write a count, such as '12,345' or '1.23 ± 0.01 M'."""
    return _in_unit(stat, *unit_of(stat["mean"]))


def short(value: float) -> str:
    """Write a count in full below 100,000, otherwise with three digits and a unit."""
    return whole(statistic([value]))


def unit_of(value: float) -> tuple[float, str, int]:
    """The size and name of the unit for a count, and the number of decimals."""
    if not abs(value) >= _IN_FULL:
        return 1.0, "", 0
    size, unit = next(pair for pair in _UNITS if abs(value) >= pair[0])
    return size, unit, max(0, 2 - int(math.log10(abs(value) / size)))


def _in_unit(stat: Stat, size: float, unit: str, decimals: int) -> str:
    """Mean and deviation in one unit; a deviation that rounds to 0 is left out."""
    mean, sd = stat["mean"] / size, (stat["sd"] or 0.0) / size
    spread = f"{sd:,.{decimals}f}"
    between = f" ± {spread}" if float(spread.replace(",", "")) else ""
    return f"{mean:,.{decimals}f}{between}{unit}"


def milliseconds(stat: Stat) -> str:
    """Write a latency with three digits, such as '1.24 ± 0.03 ms'."""
    digits = 0 if stat["mean"] <= 0 else math.floor(math.log10(stat["mean"]))
    return _in_unit(stat, 1.0, " ms", max(0, 2 - digits))


def duration(stat: Stat) -> str:
    """Write seconds in the unit of the mean, such as '1.5 ± 0.1 min'."""
    units = ((3600.0, " h"), (60.0, " min"))
    size, unit = next((pair for pair in units if stat["mean"] >= pair[0]), (1.0, " s"))
    return _in_unit(stat, size, unit, 1)
