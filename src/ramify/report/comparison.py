"""Comparison of the networks of several runs: pure functions from records to rows."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ramify.commands.run_folder import CONFIG, RETRAINED, seen_in_place_of
from ramify.data import Metric
from ramify.data.metric import ACCURACY
from ramify.errors import RamifyError
from ramify.latency import Latency
from ramify.report.events import MAIN, of_kind
from ramify.report.headline import flatten
from ramify.report.reader import RunRecord
from ramify.report.tables import (
    Row,
    Stat,
    headings,
    measured,
    metric_text,
    milliseconds,
    results_table,
    row_texts,
    statistic,
    whole,
)

COSTS = {"params": "parameters", "macs": "MACs", "latency": "milliseconds"}
"""The costs of a network, with their names in text."""
HEADS = ("run", "network", "n")  # followed by the heads of the numbers
OF_THE_RUN = ("command", "seed", "device", "threads", "tensorboard")
"""Settings that are left out when runs are compared."""
UNSET = "–"


@dataclass(frozen=True)
class ArmResult:
    """The results of all seeds of one arm of a run.

    Attributes:
        number: Its number on the page, from 1.
        run: The name of the run.
        data: The data set of the run.
        arm: Such as ``"grown"``.
        row: Its numbers over seeds.
        latency: In milliseconds, over the seeds whose network was measured; None if there are none.
    """

    number: int
    run: str
    data: str
    arm: str
    row: Row
    latency: Stat | None = None

    @property
    def metric(self) -> Metric:
        """Its metric."""
        return Metric.of(self.row)

    @property
    def value(self) -> float:
        """The mean of the metric; accuracy is a share."""
        return measured(self.row)["mean"]

    @property
    def worth(self) -> float:
        """The value with its sign such that higher is better."""
        return self.metric.worth(self.value)

    @property
    def main(self) -> bool:
        """Whether it is the main arm of its run."""
        return self.arm in (*MAIN, "retrained")

    def cost(self, name: str) -> float | None:
        """Its mean cost by a name in `COSTS`; None if that was not measured."""
        if name == "latency":
            return None if self.latency is None else self.latency["mean"]
        return self.row["params" if name == "params" else "macs"]["mean"]


def runs_among(paths: Iterable[Path]) -> list[Path]:
    """The run folders among paths: the paths themselves, and those in a folder of runs.

    Args:
        paths: Run folders, or folders that contain some, such as that of a sweep.

    Returns:
        Each run once, in the given order, those of one folder sorted by name.

    Raises:
        RamifyError: A folder is missing, or is not a run and contains none.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        runs = [path] if (path / CONFIG).is_file() else []
        if not runs and path.is_dir():
            runs = sorted(inside.parent for inside in path.glob(f"*/{CONFIG}"))
        if not runs:
            seen = seen_in_place_of(path, f"{CONFIG}, nor a run within")
            raise RamifyError(
                f"'{path}' is not a run folder: it {seen}; give folders that ramify grow, prune, "
                "search or retrain wrote, or a folder of such runs."
            )
        found |= {run.resolve(): run for run in runs if run.resolve() not in found}
    return list(found.values())


def names_of(runs: Sequence[Path]) -> list[str]:
    """A short unique name for each run.

    Args:
        runs: The run folders.

    Returns:
        The last part of each path, or as many parts as distinguish them.

    Example:
        >>> names_of([Path("a/one"), Path("a/two")]), names_of([Path("a/x"), Path("b/x")])
        (['one', 'two'], ['a/x', 'b/x'])
    """
    parts = [run.resolve().parts for run in runs]
    longest = max(map(len, parts), default=1)
    for length in range(1, longest + 1):
        names = ["/".join(part[-length:]) for part in parts]
        # "retrain" alone does not identify the run whose shape was trained.
        if len(set(names)) == len(names) and RETRAINED not in names:
            return names
    return [str(run) for run in runs]


def networks_of(
    records: Mapping[str, RunRecord], measured: Mapping[str, Mapping[str, Latency]]
) -> list[ArmResult]:
    """The finished networks of runs, one for each arm.

    Args:
        records: The contents of the run folders, by the name of the run.
        measured: For some of these names, the latency of jobs by their names.

    Returns:
        The networks in the order of the runs, numbered.
    """
    found = list[ArmResult]()
    for name, record in records.items():
        times = measured.get(name, {})
        results = of_kind(record.events, "result")
        for row in results_table(results):
            jobs = [event["job"] for event in results if event["arm"] == row["arm"]]
            own = [times[job].median for job in jobs if job in times]
            latency = statistic(own) if own else None
            data, number = str(record.config.get("data")), len(found) + 1
            found.append(ArmResult(number, name, data, row["arm"], row, latency))
    return found


def front(networks: Sequence[ArmResult], cost: str) -> list[ArmResult]:
    """The Pareto front of metric and cost, the cheapest first.

    Args:
        networks: Networks with one data set and one metric.
        cost: A name in `COSTS`.

    Returns:
        The networks for which no other is at least as good and as cheap, and better in one of the
        two. Networks with unknown cost are left out.
    """
    known = [(one.cost(cost), one) for one in networks]
    ranked = sorted(
        ((price, one) for price, one in known if price is not None),
        key=lambda pair: (pair[0], -pair[1].worth),
    )
    best, found, last = -math.inf, list[ArmResult](), -1.0
    for price, one in ranked:
        if one.worth > best or (one.worth == best and price == last):
            found.append(one)
            best, last = one.worth, price
    return found


def texts(networks: Sequence[ArmResult]) -> tuple[list[str], list[list[str]]]:
    """The table of networks as texts.

    Args:
        networks: Its rows.

    Returns:
        The column heads, and the rows; there is a latency column if any network has one.
    """
    timed = any(network.latency for network in networks)
    rows = []
    for one in networks:
        value, params, macs, steps, time = row_texts(one.row)
        latency = milliseconds(one.latency) if one.latency else ""
        middle = [value, params, macs, *([latency] if timed else []), steps, time]
        rows.append([one.run, one.arm, str(one.row["n"]), *middle])
    heads = headings(one.row for one in networks)
    return [*HEADS, *heads[:3], *(["latency"] if timed else []), *heads[3:]], rows


def metrics_of(networks: Iterable[ArmResult]) -> list[Metric]:
    """The metrics of networks, each once; accuracy if there are no networks."""
    return list({one.metric.key: one.metric for one in networks}.values()) or [ACCURACY]


def as_markdown(networks: Sequence[ArmResult]) -> str:
    """The table of networks in Markdown, one for each metric."""
    tables = []
    for metric in metrics_of(networks):
        heads, rows = texts([one for one in networks if one.metric == metric])
        lines = [heads, ["---"] * 2 + ["---:"] * (len(heads) - 2), *rows]
        cells = [[cell.replace("|", "/") for cell in row] for row in lines]
        tables.append("\n".join(f"| {' | '.join(row)} |" for row in cells))
    return "\n\n".join(tables)


def as_csv(networks: Sequence[ArmResult]) -> str:
    """The table of networks as CSV, in full precision: means, and deviations over seeds."""
    tests = dict.fromkeys(f"test_{metric.key}" for metric in metrics_of(networks))
    quantities = (*(tests | {"test_loss": None}), "params", "macs", "latency", "steps", "seconds")
    memory = io.StringIO()
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow(
        ["data", "run", "network", "n", *(f"{q}{end}" for q in quantities for end in ("", "_sd"))]
    )
    for one in networks:
        none: dict[str, Any] = {"mean": None, "sd": None}  # also for metrics of other networks
        stats: dict[str, Any] = {**one.row, "latency": one.latency or none}
        numbers = [stats.get(name, none)[part] for name in quantities for part in ("mean", "sd")]
        writer.writerow([one.data, one.run, one.arm, one.row["n"], *numbers])
    return memory.getvalue()


def differences(records: Mapping[str, RunRecord]) -> tuple[list[str], list[list[str]]]:
    """The settings in which runs differ.

    Args:
        records: The contents of the run folders, by the name of the run.

    Returns:
        Column heads (``run`` and the settings) and one row per run; no rows if all are the same.
    """
    configs = {name: dict(flatten(_rounded(record.config))) for name, record in records.items()}
    every = dict.fromkeys(key for config in configs.values() for key in config)
    keys = [
        key
        for key in every
        if key not in OF_THE_RUN and len({config.get(key, "") for config in configs.values()}) > 1
    ]
    if len({config.get("command") for config in configs.values()}) > 1:
        keys.insert(0, "command")
    rows = [
        [name, *(UNSET if config.get(key, "none") == "none" else config[key] for key in keys)]
        for name, config in configs.items()
    ]
    return ["run", *keys], rows if keys else []


def _rounded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings rounded for readers."""
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in config.items()}


def best_words(networks: Sequence[ArmResult]) -> list[tuple[str, str, str]]:
    """Headline numbers of the networks of one data set and one metric: value, name, note."""
    best = max(networks, key=lambda one: one.worth)
    share = 0.01 if best.metric.percent else 0.01 * abs(best.value)
    near = [one for one in networks if one.worth >= best.worth - share]
    small = min(near, key=lambda one: one.row["params"]["mean"])
    within = "one point" if best.metric.percent else "1 %"
    name = f"parameters of the smallest network within {within} of the best"
    note = f"{small.run}, {small.arm}, {metric_text(small.row)}"
    if small is not best:
        note += (
            f", ×{small.row['params']['mean'] / best.row['params']['mean']:.2f} of the best network"
        )
    return [
        (metric_text(best.row), f"best test {best.metric.words}", f"{best.run}, {best.arm}"),
        (whole(small.row["params"]), name, note),
    ]
