"""The page of a run that cuts, whatever its phases and however far it came."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from ramify.report import prune_page, write_report
from tests.report.cut_runs import Events, cut_run, sensitivity_event
from tests.report.pages import read

Make = Callable[..., Path]
HEADINGS = (
    "From the full network to the small one",
    "What the cut cost",
    "What each layer kept, and why",
    "The refit",
)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the figures out, where only the text is looked at."""
    monkeypatch.setattr(prune_page, "picture", lambda figure, label: Markup("<img>"))


def write(make_run: Make, events: Events, finished: bool = True, **settings: Any) -> Path:
    """The page of a run of these events."""
    run = make_run(events, finished=finished)
    config = json.loads((run / "config.json").read_text()) | {"command": "prune", **settings}
    (run / "config.json").write_text(json.dumps(config))
    return write_report(run)


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"given": True},
        {"search": True},
        {"search": True, "old": True},
        {"rounds": 2},
    ],
)
def test_a_page_of_every_kind_of_run(make_run: Make, run: dict[str, Any]) -> None:
    path = write(make_run, cut_run(**run))
    page = read(path)
    for words in ("digits_net pruned on digits", "test accuracy after fine-tuning", *HEADINGS):
        assert words in page.text
    assert ("Nothing was refitted." in page.text) == bool(run.get("old"))
    for words in ("How the network grew", "Family tree", "Sensitivity of each layer"):
        assert words not in page.text
    # Phases, layers, channels, proposals, and the refit.
    assert len(page.images) == (4 if run.get("old") else 5)
    headings = re.findall(r"<h\d>.*?</h\d>", path.read_text())
    assert headings
    assert not [heading for heading in headings if "seed" in heading.lower()]
    assert not [image for image in page.images if "seed" in re.sub(r"<style.*?</style>", "", image)]


def test_several_networks_are_compared_and_stand_one_by_one(make_run: Make) -> None:
    page = read(write(make_run, [*cut_run(0), *cut_run(1)]))
    assert "All networks together" in page.text
    assert "sample standard deviation" in page.text
    assert page.text.count("pruned-1") == 3  # outcome, layers, refit
    assert len(page.images) == 1 + 1 + 2 * 4 + 1


@pytest.mark.usefixtures("undrawn")
def test_the_learning_rate_of_fine_tuning_is_shown(make_run: Make) -> None:
    events, told = cut_run(), "learning rate of the fine-tuning that followed was found by short"
    cut = next(event for event in events if event["event"] == "edit")
    place = events.index(cut) + 1
    events.insert(place, {**cut, "event": "rate", "lr": 0.0173})
    text = read(write(make_run, events)).text
    assert told in text
    assert "0.0173" in text
    for fresh in (False, True):
        text = read(write(make_run, cut_run(), tuning_lr=0.0273, from_scratch=fresh)).text
        section = text.rsplit("What the cut cost", 1)[1].rsplit("What each layer kept", 1)[0]
        assert told not in text
        assert ("0.0273" in section) == ("learning rate" in section) == (not fresh)


@pytest.mark.usefixtures("undrawn")
def test_warnings_stand_at_the_top(make_run: Make) -> None:
    events = cut_run()
    for event in events:
        if event["event"] == "edit":
            event["warnings"] = ["'conv1' (8 to 1) lost 90 % of the channels or more"]
    text = read(write(make_run, events)).text
    told = "'conv1' (8 to 1) lost 90 % of the channels or more."
    assert text.index(told) < text.rindex(HEADINGS[0])


def test_sensitivity_is_drawn_where_the_run_has_it(make_run: Make) -> None:
    page = read(write(make_run, [*cut_run(), sensitivity_event()]))
    assert "Sensitivity of each layer" in page.text
    assert len(page.images) == 6


@pytest.mark.usefixtures("undrawn")
def test_a_run_from_fresh_weights_says_so(make_run: Make) -> None:
    text = read(write(make_run, cut_run(), from_scratch=True)).text
    assert "The cut shape was then trained from scratch." in text
    assert "right after the cut and" in text
    assert "test accuracy right after the cut" not in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 8])
def test_a_page_of_a_run_under_way(make_run: Make, count: int) -> None:
    text = read(write(make_run, cut_run()[:count], finished=False)).text
    assert "This run is unfinished." in text
    assert "ramify prune --resume RUN" in text
    assert ("No channel has been cut yet." in text) == (count < 5)
    assert ("Nothing was trained yet." in text) == (count == 0)


@pytest.mark.usefixtures("undrawn")
def test_layers_too_wide_to_tell_channels_apart_have_no_squares(make_run: Make) -> None:
    events = cut_run()
    for event in events:
        if event["event"] == "edit":
            event["widths_before"]["head"] = event["widths_after"]["head"] = 300
            event["origin"]["head"] = list(range(300))
    text = read(write(make_run, events)).text
    assert "Each bar or tick is a channel" in text
    assert "Each square is a channel" not in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("gain, said", [(-0.1, False), (0.0, True)])
def test_scores_that_do_not_compare_are_said_to(make_run: Make, gain: float, said: bool) -> None:
    events = cut_run()
    for proposal in next(event for event in events if event["event"] == "edit")["proposals"]:
        proposal["gain"] = gain
    text = read(write(make_run, events)).text
    assert ("not comparable between layers" in text) == said
