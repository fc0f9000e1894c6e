"""What a run shows while it goes on: a live bar with the time left, or plain lines."""

import time
from collections import Counter
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ramify.run.config import GrowConfig

REDRAW = 0.2
QUIET = 15.0


class Display:
    """Follows a run on a console.

    Edits and results are lines that stay. On a terminal the current epoch stands below them, with a
    bar over all jobs; elsewhere an epoch is a line when nothing was said for a while.

    Args:
        console: Where to write.
        config: The settings of the run.
        events: What happened before, where the run is resumed.
    """

    def __init__(self, console: Console, config: GrowConfig, events: list[dict[str, Any]]) -> None:
        self.console = console
        self.config = config
        self.epochs = Counter(event["job"] for event in events if event["event"] == "epoch")
        self.stopped = {e["seed"]: self.epochs[e["job"]] for e in events if _is_grown(e)}
        self.progress = Progress(
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=600.0,
        )
        self.status = Text("starting")
        self.live = Live(Group(self.status, self.progress), console=console, transient=True)
        self.fraction = 0.0
        self.written = self.drawn = time.monotonic()
        self.bar = self.progress.add_task("", total=self._total(), completed=self._done())

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()

    def tick(self, fraction: float) -> None:
        """A step has begun that is this share of an epoch."""
        self.fraction += fraction
        if time.monotonic() - self.drawn > REDRAW:
            self._draw()

    def event(self, event: dict[str, Any]) -> None:
        """Something happened that is worth a line."""
        if event["event"] == "epoch":
            self.epochs[event["job"]] += 1
            self.fraction = 0.0
            line = _epoch_line(event, self.config)
            self.status.plain = line + (", choosing channels" if self._ends_round(event) else "")
            if not self.console.is_terminal and time.monotonic() - self.written > QUIET:
                self._print(line)
        elif event["event"] == "edit":
            self._print(_edit_line(event))
        else:
            if _is_grown(event):
                self.stopped[event["seed"]] = self.epochs[event["job"]]
            self._print(_result_line(event))
        self._draw()

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)
        self.written = time.monotonic()

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        completed = self._done() + min(self.fraction, 1.0)
        self.progress.update(self.bar, completed=completed, total=self._total())

    def _ends_round(self, event: dict[str, Any]) -> bool:
        last = event["epoch"] + 1 == self.config.epochs and event["round"] < self.config.rounds
        return event["arm"] == "grown" and last

    def _done(self) -> int:
        return sum(self.epochs.values())

    def _total(self) -> int:
        """Epochs of the whole run, fewer for a seed whose network stopped growing early."""
        config = self.config
        seeds = range(config.seed, config.seed + config.seeds)
        full = config.epochs * (config.rounds + 1)
        return sum(self.stopped.get(seed, full) for seed in seeds) * len(config.arms())


def _is_grown(event: dict[str, Any]) -> bool:
    return event["event"] == "result" and event["arm"] == "grown"


def _epoch_line(event: dict[str, Any], config: GrowConfig) -> str:
    rounds = f"round {event['round']} of {config.rounds}, " if event["arm"] == "grown" else ""
    return (
        f"{event['job']}: {rounds}epoch {event['epoch'] + 1}, "
        f"test accuracy {100 * event['test_accuracy']:.2f} %, {event['params']:,} parameters"
    )


def _edit_line(event: dict[str, Any]) -> str:
    taken = sum(proposal["selected"] for proposal in event["proposals"])
    return (
        f"{event['job']}: round {event['round']}, split {taken} of {len(event['proposals'])} "
        f"channels, {event['params_before']:,} -> {event['params_after']:,} parameters"
    )


def _result_line(event: dict[str, Any]) -> str:
    return (
        f"{event['job']}: finished, test accuracy {100 * event['test_accuracy']:.2f} %, "
        f"{event['params']:,} parameters, {event['steps']:,} steps in {event['seconds']:.0f} s"
    )
