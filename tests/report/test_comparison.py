import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ramify.errors import RamifyError
from ramify.latency import Latency
from ramify.report import write_comparison, write_report
from ramify.report.compare_figures import front_figure
from ramify.report.comparison import (
    COSTS,
    ArmResult,
    as_csv,
    as_markdown,
    best_words,
    differences,
    front,
    names_of,
    networks_of,
    runs_among,
)
from ramify.report.reader import read_run
from ramify.report.tables import Row, statistic
from tests.report.pages import read

Events = list[dict[str, Any]]
Write = Callable[..., Path]


def network(number: int, accuracy: float, params: float, macs: float = 1.0) -> ArmResult:
    stat = statistic([1.0])
    row: Row = {
        "arm": "grown",
        "n": 1,
        "test_accuracy": statistic([accuracy]),
        "test_loss": stat,
        "params": statistic([params]),
        "macs": statistic([macs]),
        "steps": stat,
        "seconds": stat,
    }
    return ArmResult(number, f"run-{number}", "digits", "grown", row)


@pytest.fixture
def runs(tmp_path: Path, events: Events, write_run: Write) -> list[Path]:
    first = write_run(tmp_path / "one", events)
    fewer = [e for e in events if e["job"].endswith("-0") and not e["job"].startswith("wide")]
    second = write_run(tmp_path / "two", fewer, finished=False)
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(config | {"model": "<vgg>"}))
    return [first, second]


def test_the_front_is_what_no_other_network_beats() -> None:
    draw = random.Random(0)
    for _ in range(50):
        several = [network(i, draw.randrange(6) / 10, draw.randrange(1, 6)) for i in range(8)]

        def beats(one: ArmResult, other: ArmResult) -> bool:
            mine, theirs = (
                (one.value, -one.cost("params")),
                (other.value, -other.cost("params")),
            )
            return all(a >= b for a, b in zip(mine, theirs, strict=True)) and mine != theirs

        found = front(several, "params")
        unbeaten = [one for one in several if not any(beats(o, one) for o in several)]
        assert {one.number for one in found} == {one.number for one in unbeaten}
        prices = [one.cost("params") for one in found]
        assert prices == sorted(prices)
    assert front(several, "latency") == []


def test_runs_are_told_apart_by_as_little_of_their_path_as_it_takes(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a/one/retrain", "a/two/retrain")]
    assert names_of(runs) == ["one/retrain", "two/retrain"]
    assert names_of(runs[:1]) == ["one/retrain"]
    assert names_of([]) == []


def test_a_folder_of_runs_stands_for_them(runs: list[Path]) -> None:
    folder = runs[0].parent
    assert runs_among([folder]) == runs
    assert runs_among([runs[1], folder]) == [runs[1], runs[0]]
    for wrong, said in ((folder / "gone", "does not exist"), (folder / "one" / "x", "no config")):
        if "x" in wrong.name:
            wrong.mkdir()
        with pytest.raises(RamifyError, match=said):
            runs_among([wrong])


def test_networks_of_two_runs(runs: list[Path]) -> None:
    records = dict(zip(("one", "two"), map(read_run, runs), strict=True))
    times = {"grown-0": Latency(2.0, 0.1), "grown-2": Latency(4.0, 0.1)}
    found = networks_of(records, {"one": times})
    assert [(one.run, one.arm) for one in found] == [
        *(("one", arm) for arm in ("seed", "grown", "scratch", "wide")),
        *(("two", arm) for arm in ("seed", "grown", "scratch")),
    ]
    grown = found[1]
    assert grown.cost("latency") == 3.0
    assert found[0].latency is None
    assert grown.main
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert float(rows[1]["test_accuracy"]) == grown.value
    assert float(rows[1]["latency"]) == 3.0
    assert rows[0]["latency"] == ""
    lines = as_markdown(found).splitlines()
    assert len(lines) == 2 + len(found)
    assert "3.00 ± 1.41 ms" in lines[3]
    assert len({line.count("|") for line in lines}) == 1
    assert differences(records) == (["run", "model"], [["one", "digits_net"], ["two", "<vgg>"]])
    assert differences({"one": records["one"]}) == (["run"], [])


def test_the_smallest_network_that_is_near_the_best() -> None:
    several = [network(1, 0.95, 100), network(2, 0.941, 40), network(3, 0.93, 10)]
    (value, *_), (params, _, note) = best_words(several)
    assert (value, params) == ("95.00 %", "40")
    assert "run-2" in note
    assert "×0.40" in note


def test_figures_of_few_many_and_far_networks() -> None:
    for several in (
        [network(1, 0.9, 100)],
        [network(i, 0.9 + i / 1000, 10.0**i, i) for i in range(1, 6)],
        [network(1, 0.99, 100), network(2, 0.1, 200)],
        [network(i, 0.5 + i / 100, 100 - i) for i in range(40)],
    ):
        for cost in ("params", "macs"):
            figure = front_figure(several, cost)
            figure.draw_without_rendering()
            [axes] = figure.axes
            low, high = axes.get_ylim()
            shown = [one for one in several if low < 100 * one.value < high]
            assert set(map(id, front(several, cost))) <= set(map(id, shown))
    assert len(figure.axes[0].texts) < len(several)


def test_figures_side_by_side_have_one_scale_of_the_metric() -> None:
    several = [network(1, 0.8, 12, 11), network(2, 0.89, 11, 14), network(3, 0.5, 12, 12)]
    low, high = front_figure(several, "params").axes[0].get_ylim()
    assert front_figure(several, "macs").axes[0].get_ylim() == (low, high)
    assert 50 < low < 80
    assert high > 89


def test_the_page(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs[0])
    (tmp_path / "pages").mkdir()
    page = read(write_comparison(runs, tmp_path / "pages" / "page.html", notes=["a & b"]))
    for words in (
        "2 runs compared",
        "a & b",
        "Accuracy against cost on digits",
        "The run two is unfinished",
        "smallest network within one point",
        "Settings in which the runs differ",
        "<vgg>",
        "| run | network |",
        "test_accuracy_sd",
    ):
        assert words in page.text
    assert len(page.images) == 2
    assert {*page.references} == {"../one/report.html", *(f"#{name}" for name in page.ids)}
    assert "milliseconds" not in page.text
    assert list(COSTS) == ["params", "macs", "latency"]


def test_a_page_without_a_finished_network(tmp_path: Path, write_run: Write) -> None:
    page = read(write_comparison([write_run(tmp_path / "run", [], False)], tmp_path / "page.html"))
    assert "No network is finished yet" in page.text
    assert page.images == []


def test_what_is_no_page_is_not_written_over(runs: list[Path]) -> None:
    for file in (runs[0] / "metrics.jsonl", runs[0] / "config.json"):
        before = file.read_bytes()
        with pytest.raises(
            RamifyError, match=f"{file.name} already exists and is not an HTML page"
        ):
            write_comparison(runs, file)
        assert file.read_bytes() == before
