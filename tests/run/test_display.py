"""What a run shows: lines without a terminal, a bar that ends at the end with one."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from ramify.run import display
from ramify.run.config import GrowConfig
from ramify.run.display import Display

Make = Callable[..., GrowConfig]


def events(job: str, epochs: int) -> list[dict[str, Any]]:
    """A job that trains, without its edits."""
    arm, _, seed = job.partition("-")
    tags = {"job": job, "arm": arm, "seed": int(seed), "test_accuracy": 0.9, "params": 1234}
    trained = [{"event": "epoch", **tags, "round": 1, "epoch": e} for e in range(epochs)]
    return [*trained, {"event": "result", **tags, "steps": 40, "seconds": 2.0}]


EDIT = {
    "event": "edit",
    "job": "grown-0",
    "round": 1,
    "proposals": [{"selected": True}, {"selected": False}, {"selected": True}],
    "params_before": 100,
    "params_after": 1500,
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
        "grown-0: round 1, split 2 of 3 channels, 100 -> 1,500 parameters",
        "grown-0: finished, test accuracy 90.00 %, 1,234 parameters, 40 steps in 2 s",
        "",
    ]


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
