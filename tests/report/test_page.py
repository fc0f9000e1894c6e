import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ramify.errors import RamifyError
from ramify.report import write_report
from ramify.report.theme import DARK, LIGHT
from tests.report.pages import Checker, read

Make = Callable[..., Path]
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, events: Events, write_run: Make) -> Path:
    run = write_run(tmp_path_factory.mktemp("page") / "run", events)
    write_report(run)
    return run


def test_finished_page(finished: Path) -> None:
    page = read(finished / "report.html")
    assert "unfinished" not in page.text
    for words in (
        "digits_net grown on digits",
        "sample standard deviation",
        "test accuracy, grown",
        "compared with the seed network",
        "Widths layer by layer",
        "What became of each channel",
        "Which edits were chosen",
        "Family tree of the channels",
        "Predicted and measured gain",
        "training.optimizer",
        "2.13.0",
    ):
        assert words in page.text
    assert page.text.count("Family tree of the channels") == 3


def test_a_page_of_a_run_with_smaller_sizes(make_run: Make, sized: Events) -> None:
    page = read(write_report(make_run(sized)))
    assert "Accuracy against size" in page.text
    assert "Cut to 300 parameters from the next larger network" in page.text
    assert page.text.count("Family tree of the channels") == 3  # of the grown ones


def test_a_page_speaks_of_no_network_that_is_not_there(make_run: Make, sized: Events) -> None:
    words = " ".join(read(write_report(make_run(sized))).text.split())
    for told in ("uniformly wider networks were trained separately", "Mean ± sd", "as a band"):
        assert told in words
    one = [e for e in sized if e["job"].endswith("-0") and not e["job"].startswith("wide")]
    words = " ".join(read(write_report(make_run(one))).text.split())
    for told in ("uniformly wider", "± sd", "as a band", "one sd"):
        assert told not in words
    assert "a line joins them" in words


def test_a_page_says_why_growth_stopped_and_shows_what_was_retrained(
    make_run: Make, events: Events
) -> None:
    tags = {"event": "stop", "job": "grown-0", "arm": "grown", "round": 3, "step": 810}
    run = make_run([*events, {**tags, "reason": "budget", "budget": {"params": 9e5}}])
    again = {"job": "retrained-0", "arm": "retrained"}
    retrained = [{**event, **again} for event in events if event["job"] == "scratch-0"]
    (run / "retrain").mkdir()
    lines = "".join(json.dumps(event) + "\n" for event in retrained)
    (run / "retrain" / "metrics.jsonl").write_text(lines)
    page = read(write_report(run))
    assert "It stopped after round 3: the budget params = 900,000 is used up." in page.text
    assert "trained from scratch by ramify retrain" in page.text


def test_a_page_of_a_retrained_network_does_not_speak_of_growth(
    make_run: Make, events: Events
) -> None:
    jobs = [event for event in events if event["job"] == "scratch-0"]
    again = [{**event, "job": "retrained-0", "arm": "retrained"} for event in jobs]
    run = make_run(again, finished=False)
    config = json.loads((run / "config.json").read_text()) | {"command": "retrain"}
    (run / "config.json").write_text(json.dumps(config))
    page = read(write_report(run))
    for words in ("digits_net retrained on", "test accuracy, retrained", "ramify retrain --resume"):
        assert words in page.text
    assert "How the network grew" not in page.text


def test_page_needs_nothing_else(finished: Path) -> None:
    page = read(finished / "report.html")
    source = (finished / "report.html").read_text()
    assert "<script" not in source
    assert "http" not in source.replace("http-equiv", "")
    assert page.references == [f"#{name}" for name in page.ids]  # its own chapters alone
    assert len(set(page.ids)) == len(page.ids) > 3
    assert len(page.images) == source.count("<img ") == 15
    for image in page.images:
        own = Checker()
        own.feed(image)
        assert "<script" not in image
        assert own.references
        assert all(reference.startswith("#") for reference in own.references)
        assert {reference[1:] for reference in own.references} <= set(own.ids)
        assert len(own.ids) == len(set(own.ids))


def test_names_from_outside_are_text_alone(make_run: Make, events: Events) -> None:
    name = "<script>alert(1)</script>\"'&[b]"
    group = next(iter(next(e for e in events if e["event"] == "edit")["widths_before"]))
    written = json.dumps(events).replace(json.dumps(group), json.dumps(name))
    run = make_run(json.loads(written))
    config = json.loads((run / "config.json").read_text()) | {"model": name, "data": name}
    (run / "config.json").write_text(json.dumps(config))
    page = read(write_report(run))
    source = (run / "report.html").read_text()
    assert "<script" not in source
    assert not any("<script" in image for image in page.images)
    assert name in page.text
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in source


def test_figures_follow_the_theme(finished: Path) -> None:
    page = read(finished / "report.html")
    for image in page.images:
        body, (light, rules) = image, re.split("@media.*?dark", image.partition("</style>")[0])
        used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})\b", body.replace(light, "")))
        roles = {role for role, color in LIGHT.items() if color in used}
        assert used <= set(LIGHT.values())
        assert all(DARK[role] in rules for role in roles)


def test_page_is_put_in_place_whole(finished: Path) -> None:
    first = (finished / "report.html").read_bytes()
    assert write_report(finished) == finished / "report.html"
    assert (finished / "report.html").read_bytes() == first
    assert not list(finished.glob(".*"))


def test_old_page_survives_a_failed_write(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = (finished / "report.html").read_bytes()

    def fail(*names: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RamifyError, match="no room"):
        write_report(finished)
    assert (finished / "report.html").read_bytes() == first
    assert not list(finished.glob(".*"))


@pytest.mark.parametrize("count", [0, 1, 7, 10, 30])
def test_unfinished_page(make_run: Make, events: Events, count: int) -> None:
    run = make_run(events[:count], finished=False)
    page = read(write_report(run))
    assert "This run is unfinished." in page.text
    assert "ramify grow --resume RUN" in page.text
    assert ("No epoch has ended yet." in page.text) == (count == 0)
    assert ("No channel has been split or pruned yet." in page.text) == (count < 7)
    assert ("No network is finished yet." in page.text) == (count < 30)


def test_no_page_for_a_damaged_run(make_run: Make, events: Events) -> None:
    run = make_run(events)
    with (run / "metrics.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(RamifyError, match=f"line {len(events) + 1}"):
        write_report(run)
    assert not (run / "report.html").exists()


def test_strange_names_stay_text(make_run: Make, events: Events) -> None:
    """Markup, mathematics and long decimals in a layer's name are shown as they are."""
    name = "<b>.12345#1d2420-->$x$"
    edit = next(event for event in events if event["event"] == "edit")
    renamed = {
        **edit,
        **{
            key: {name if group == "conv1" else group: v for group, v in edit[key].items()}
            for key in ("widths_before", "widths_after", "origin")
        },
        "proposals": [
            {**p, "group": name if p["group"] == "conv1" else p["group"]} for p in edit["proposals"]
        ],
    }
    page = read(write_report(make_run([*events[:1], renamed], finished=False)))
    drawn = [[text.text for text in ElementTree.fromstring(image).iter()] for image in page.images]
    assert sum(name in texts for texts in drawn) == 3  # widths, channels and proposals
