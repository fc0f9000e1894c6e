from typing import Any

import pytest

from ramify.report import RunRecord, results_table
from ramify.report.headline import counted, flatten, state, tiles, title
from ramify.report.tables import metric_text

Events = list[dict[str, Any]]


def record(config: dict[str, Any], events: Events) -> RunRecord:
    return RunRecord("run-7", config, {}, list(events), finished=False)


def values(events: Events) -> dict[str, tuple[str, str]]:
    return {tile.name: (tile.value, tile.note) for tile in tiles(events, results_table(events))}


def test_tiles_of_a_finished_run(events: Events) -> None:
    rows = {row["arm"]: row for row in results_table(events)}
    shown = values(events)
    assert shown["test accuracy, grown"] == (
        metric_text(rows["grown"]),
        "mean ± sd over 3 seeds",
    )
    gain = rows["grown"]["test_accuracy"]["mean"] - rows["seed"]["test_accuracy"]["mean"]
    assert shown["compared with the seed network"] == (
        f"+{100 * gain:.2f} points",
        f"which has {metric_text(rows['seed'])}",
    )
    mean = round(rows["grown"]["params"]["mean"])
    assert shown["parameters"][0] == f"410 → {mean:,}"
    assert shown["training time"] == ("24.0 min", "12 networks")


def test_tiles_of_a_run_with_smaller_sizes(events: Events, sized: Events) -> None:
    rows = {row["arm"]: row["test_accuracy"]["mean"] for row in results_table(sized)}
    shown = values(sized)
    gain = 100 * (rows["cut-300"] - rows["wide-300"] + rows["cut-150"] - rows["wide-150"]) / 2
    tile = shown["cut networks of this run, compared with separate runs"]
    assert tile[0].replace("−", "-") == f"{gain:+.2f} points"
    assert tile[1].startswith("mean of 2 sizes")
    assert shown["parameters"] == values(events)["parameters"]  # of what grew alone
    assert "compared with the seed network" not in shown


def test_tiles_of_a_run_under_way(events: Events) -> None:
    assert values([]) == {}
    shown = values(events[:7])  # six epochs and a split
    assert set(shown) == {"test accuracy, grown", "parameters"}
    accuracy = 100 * events[5]["test_accuracy"]
    assert shown["test accuracy, grown"] == (f"{accuracy:.2f} %", "so far, grown-0")
    assert shown["parameters"][0] == f"410 → {events[6]['params_after']}"


def test_a_loss_of_accuracy_has_a_minus(events: Events) -> None:
    worse = [{**e, "test_accuracy": 0.1} if e.get("arm") == "grown" else e for e in events]
    assert values(worse)["compared with the seed network"][0].startswith("−")


@pytest.mark.parametrize(
    "config, words",
    [
        ({"model": "vgg19", "data": "cifar10"}, "vgg19 grown on cifar10"),
        ({"model": "vgg19", "data": "a/b/flowers"}, "vgg19 grown on flowers"),
        ({}, "run-7"),
    ],
)
def test_title(config: dict[str, Any], words: str) -> None:
    assert title(record(config, [])) == words


def test_settings_and_counts_in_words() -> None:
    settings = {"lr": 0.1, "rule": {"name": "top", "share": None}, "nesterov": False, "at": [1, 2]}
    lines = [("lr", "0.1"), ("rule.name", "top"), ("rule.share", "none")]
    assert flatten(settings) == [*lines, ("nesterov", "false"), ("at", "1, 2")]
    assert [counted(1, "seed"), counted(3, "seed")] == ["1 seed", "3 seeds"]
    assert counted(2, "search", "searches") == "2 searches"


def test_state(events: Events) -> None:
    assert state(record({}, [])) == "No epoch has ended yet."
    until = [k for k, event in enumerate(events) if event["event"] == "result"][1]
    text = state(record({}, events[: until + 2]))
    assert text.startswith("So far 2 networks finished; scratch-0 is at 45 steps")
