"""What a run shows: lines without a terminal, a bar that ends at the end with one."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from ramify.commands import display
from ramify.commands.display import Display
from ramify.commands.grow_settings import GrowSettings

Make = Callable[..., GrowSettings]


def events(job: str, epochs: int) -> list[dict[str, Any]]:
    """A job that trains, without its edits."""
    arm, _, seed = job.partition("-")
    tags = {"job": job, "arm": arm, "seed": int(seed), "test_accuracy": 0.9, "params": 1234}
    trained = [{"event": "epoch", **tags, "round": 1, "epoch": e} for e in range(epochs)]
    return [*trained, {"event": "result", **tags, "steps": 40, "seconds": 2.0}]


def proposal(channel: int, copies: int, selected: bool) -> dict[str, Any]:
    return {"group": "conv", "channel": channel, "copies": copies, "selected": selected}


EDIT: dict[str, Any] = {
    "event": "edit",
    "job": "grown-0",
    "arm": "grown",
    "round": 1,
    "passes": 0,
    "proposals": [proposal(0, 2, True), proposal(1, 2, False), proposal(2, 3, True)],
    "params_before": 100,
    "params_after": 1500,
    "loss_before": 1.47,
    "loss_after": 5.0921,
    "predicted_gain": 2.0334,
}


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_edits_and_results_are_lines(config: Make) -> None:
    console = plain()
    with Display(console, config(), []) as shown:
        for event in (EDIT, *events("grown-0", 6)):
            shown.event(event)
    assert text(console).split("\n") == [
        "grown-0: round 1, split 2 of 3 channels, 100 -> 1,500 parameters, "
        "loss 1.470 -> 5.092 (predicted 2.033 less)",
        "grown-0: finished, test accuracy 90.00 %, 1,234 parameters, 40 steps in 2 s",
        "",
    ]


@pytest.mark.parametrize(
    ("gain", "shown"),
    [(0.25, " (predicted 0.2500 less)"), (-1.25e-5, " (predicted 1.250e-05 more)"), (None, "")],
)
def test_an_edit_line_says_less_or_more_or_nothing_of_the_loss(
    config: Make, gain: float | None, shown: str
) -> None:
    console = plain()
    with Display(console, config(), []) as following:
        following.event(EDIT | {"predicted_gain": gain})
    assert text(console).rstrip("\n").partition("5.092")[2] == shown


def test_an_edit_line_says_what_became_of_the_selection(config: Make) -> None:
    console = plain()
    tried = {"expected_gain": 0.5, "step_factor": 0.25, "dropped": 3}
    with Display(console, config(), []) as following:
        following.event(EDIT | tried)
        following.event(EDIT | tried | {"predicted_gain": None, "expected_gain": None})
    assert [line.partition("5.092")[2] for line in text(console).splitlines()] == [
        " (predicted 2.033 less, after trials and earlier edits 0.5000 less, splits at 0.25 of "
        "their full length, 3 left out)",
        " (splits at 0.25 of their full length, 3 left out)",
    ]


def test_an_edit_line_says_what_new_neurons_gain_later(config: Make) -> None:
    console = plain()
    with Display(console, config(), []) as following:
        following.event(EDIT | {"predicted_gain": None, "first_step_gain": 1.25})
    said = " (first-order gain of the next gradient step of new neurons 1.250)"
    assert text(console).rstrip("\n").partition("5.092")[2] == said


def test_prunes_are_counted_apart_and_a_stop_gives_its_reason(config: Make) -> None:
    console = plain()
    both = [*EDIT["proposals"], proposal(1, 0, True), proposal(2, 0, False)]
    stop = {"event": "stop", "job": "grown-0", "arm": "grown", "round": 1}
    budget = {"reason": "budget", "budget": {"params": 1.2e6, "latency": 3.5}}
    with Display(console, config(), []) as shown:
        shown.event(EDIT | {"proposals": both})
        shown.event(EDIT | {"proposals": both[3:]})
        shown.event(stop | budget)
        shown.event(stop | {"reason": "rounds", "budget": None})
        shown.event(stop | {"reason": "no morphism pays", "budget": None})
        harm = "no edit that does not raise the loss"
        shown.event(stop | {"reason": harm, "budget": None})
        shown.event(stop | {"reason": "floors and ceilings", "budget": None})
        shown.event(stop | {"reason": "rounds", "arm": "seed", "job": "seed-0"})
    lines = [line.partition(", 100 ->")[0] for line in text(console).splitlines()]
    assert lines == [
        "grown-0: round 1, split 2 and pruned 1 of 3 channels",
        "grown-0: round 1, pruned 1 of 2 channels",
        "grown-0: stopped after round 1: "
        "the budget params = 1,200,000 and latency = 3.5 is used up",
        "grown-0: stopped after round 1, the last one",
        "grown-0: stopped after round 1: no morphism was worth its cost any more",
        "grown-0: stopped after round 1: every change would raise the loss",
        "grown-0: stopped after round 1: every layer is at its floor or ceiling",
    ]


def test_epochs_of_learning_move_the_bar(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "REDRAW", -1.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    settings = config(rounds=1)  # two rounds of 2 epochs, 3 of learning between
    settings = settings.model_copy(update={"phase": 3})
    with Display(console, settings, []) as shown:
        bar = shown.progress.tasks[0]
        assert bar.total == 7
        for event in events("grown-0", 2)[:2]:
            shown.event(event | {"round": 0})
        for _ in range(5):
            shown.tick(0.5)
        assert bar.completed == 4.5
        for _ in range(5):  # the loss before and after the edit is measured too
            shown.tick(0.5)
        assert bar.completed == 5
        shown.event(EDIT | {"passes": 3})
        assert bar.completed == 5
        for event in events("grown-0", 2):
            shown.event(event)
        assert (bar.completed, bar.total) == (7, 7)


def test_without_a_terminal_a_long_epoch_is_a_line(
    config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "QUIET", -1.0)
    console = plain()
    with Display(console, config(), []) as shown:
        shown.event(events("grown-0", 2)[1])
        shown.event(events("wide-0", 2)[0])
    assert text(console).split("\n")[:2] == [
        "grown-0: round 1 of 2, epoch 2, test accuracy 90.00 %, 1,234 parameters",
        "wide-0: epoch 1, test accuracy 90.00 %, 1,234 parameters",
    ]


def test_the_bar_counts_every_job_and_ends_at_its_end(config: Make) -> None:
    settings = config(compare=True, seeds=2)  # 8 jobs of 6 epochs
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Display(console, settings, events("grown-0", 6)) as shown:
        bar = shown.progress.tasks[0]
        assert (bar.completed, bar.total) == (6, 48)
        for event in events("seed-0", 6)[:3]:
            shown.event(event)
        assert bar.completed == 9
        for job in ("scratch-0", "wide-0"):
            for event in events(job, 6):
                shown.event(event)
        for event in events("grown-1", 2):  # ended early: so do the other arms of its seed
            shown.event(event)
        assert bar.total == 24 + 8
        for job, epochs in (("seed-0", 3), ("seed-1", 2), ("scratch-1", 2), ("wide-1", 2)):
            for event in events(job, epochs):
                shown.event(event)
        assert bar.completed == bar.total
    assert "grown-1: finished" in text(console)


def test_a_terminal_says_what_goes_on(config: Make) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Display(console, config(), []) as shown:
        first, last, *_ = events("grown-0", 2)
        shown.event(first)
        assert shown.status.plain.endswith("epoch 1, test accuracy 90.00 %, 1,234 parameters")
        shown.event(last)
        assert shown.status.plain.endswith("1,234 parameters, choosing channels")
        shown.event(events("wide-0", 2)[1])
        assert shown.status.plain.endswith("1,234 parameters")
    assert "time left" in text(console)


def test_steps_move_the_bar_within_an_epoch(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "REDRAW", -1.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Display(console, config(), []) as shown:
        bar = shown.progress.tasks[0]
        shown.tick(0.25)
        shown.tick(0.25)
        assert bar.completed == 0.5
        shown.event(events("grown-0", 1)[0])
        assert bar.completed == 1
        shown.tick(0.5)
        assert bar.completed == 1.5


def test_a_line_says_which_blocks_were_put_in(config: Make) -> None:
    console = plain()
    tried = [{"behind": "layer1.0", "inserted": True}, {"behind": "layer2.1", "inserted": False}]
    blocks = {**EDIT, "blocks": {"tried": tried}, "proposals": []}
    with Display(console, config(), []) as shown:
        for event in (blocks, {**EDIT, "blocks": {"tried": tried[1:]}}):
            shown.event(event)
    first, second, _ = text(console).split("\n")
    assert first.startswith(
        "grown-0: round 1, inserted a copy after layer1.0, changed none of 0 channels, 100 -> 1,500"
    )
    assert second.endswith("(predicted 2.033 less, no new block gained more for its cost)")
