import json
import statistics
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ramify.data.metric import ACCURACY
from ramify.report import print_table, results_table, write_summary
from ramify.report.tables import duration, row_texts, short, statistic, whole

Events = list[dict[str, Any]]


def printed(rows: Any) -> str:
    console = Console(file=StringIO(), width=80)
    print_table(rows, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_rows_are_means_and_sample_deviations(events: Events) -> None:
    rows = results_table(events)
    assert [row["arm"] for row in rows] == ["seed", "grown", "scratch", "wide"]
    for row in rows:
        own = [e for e in events if e["event"] == "result" and e["arm"] == row["arm"]]
        assert row["n"] == len(own) == 3
        for field in ("test_accuracy", "test_loss", "params", "macs", "steps", "seconds"):
            values = [event[field] for event in own]
            assert row[field]["mean"] == pytest.approx(statistics.mean(values), rel=1e-12)
            assert row[field]["sd"] == pytest.approx(statistics.stdev(values), rel=1e-12)


def test_unfinished_arms_have_no_row_and_strange_ones_come_last(events: Events) -> None:
    results = [e for e in events if e["event"] == "result" and e["seed"] == 0]
    strange = {**results[0], "arm": "pruned"}
    kept = [strange, *(e for e in results if e["arm"] != "wide")]
    assert [row["arm"] for row in results_table(kept)] == ["seed", "grown", "scratch", "pruned"]
    assert results_table([]) == []


def test_one_seed_has_no_deviation(events: Events) -> None:
    rows = results_table([e for e in events if e["event"] == "result" and e["seed"] == 1])
    assert all(row["n"] == 1 and row["test_accuracy"]["sd"] is None for row in rows)
    assert "±" not in "".join(row_texts(rows[0]))
    assert "results of one random seed" in printed(rows)


def test_print_table(events: Events) -> None:
    """Also long numbers fit into 80 columns."""
    results = [event for event in events if event["event"] == "result"]
    long = [{**e, "macs": e["macs"] // 6, "seconds": 12.0 * (1 + e["seed"])} for e in results]
    rows = results_table(long)
    text = printed(rows)
    assert "mean ± sample standard deviation over n = 3 seeds" in text
    for row in rows:
        line = next(line for line in text.splitlines() if f" {row['arm']} " in line)
        assert all(cell in line for cell in row_texts(row))


def test_print_table_of_nothing() -> None:
    assert "No network is finished yet." in printed([])


def test_summary_holds_the_rows(make_run: Callable[..., Path], events: Events) -> None:
    tags = {"job": "grown-1", "arm": "grown", "round": 3, "step": 9}
    stop = {"event": "stop", **tags, "reason": "budget", "budget": {"params": 9e5}}
    run = make_run([*events, stop, {**stop, "job": "seed-1", "arm": "seed"}], finished=False)
    path = write_summary(run)
    assert path == run / "summary.json"
    assert json.loads(path.read_text()) == {
        "rows": results_table(events),
        "stopped": {"grown-1": "budget"},
    }
    assert not list(run.glob("*.tmp")) + list(run.glob(".*"))


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (999.4, "999"), (99_999, "99,999"), (100_000, "100 k"), (12_340_000, "12.3 M")],
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text


def test_texts_of_statistics() -> None:
    assert ACCURACY.text(*statistic([0.9, 0.92]).values()) == "91.00 ± 1.41 %"
    assert whole(statistic([100.0, 100.0])) == "100"
    assert whole(statistic([2.0e6, 2.2e6])) == "2.10 ± 0.14 M"
    assert duration(statistic([30.0, 40.0])) == "35.0 ± 7.1 s"
    assert duration(statistic([7200.0])) == "2.0 h"
