"""The display of a run in progress: a live bar with the time left, or plain lines."""

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ramify.commands import prune_lines
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.settings import Settings
from ramify.data import Metric

REDRAW = 0.2
QUIET = 15.0


class Display:
    """Follows a run on a console.

    Edits and results are permanent lines. On a terminal the current epoch is shown below them, with
    a progress bar over all jobs; elsewhere an epoch gets a line if none was printed for a while.

    Args:
        console: The console to write to.
        settings: The settings of the run.
        events: Earlier events, if the run is resumed.
    """

    def __init__(self, console: Console, settings: Settings, events: list[dict[str, Any]]) -> None:
        self.console = console
        self.settings = settings
        self.rounds = settings.rounds if isinstance(settings, GrowSettings) else 0
        self.phase = (settings.phase or 0) if isinstance(settings, GrowSettings) else 0
        self.epochs = Counter(event["job"] for event in events if event["event"] == "epoch")
        self.learned = Counter[str]()
        for event in events:
            self.learned[event["job"]] += _learned(event)
        self.stopped = {e["seed"]: e["job"] for e in events if _is_grown(e)}
        self.cuts = {event["job"]: event for event in events if event["event"] == "edit"}
        self.rates = prune_lines.found_rates(events)
        self.choosing = bool(events) and self._ends_round(events[-1])
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
        """Advance the bar at the start of a step, which is this share of an epoch."""
        self.fraction += fraction
        if time.monotonic() - self.drawn > REDRAW:
            self._draw()

    def event(self, event: dict[str, Any]) -> None:
        """Show an event."""
        self.fraction = 0.0
        self.choosing = self._ends_round(event)
        self.learned[event["job"]] += _learned(event)
        self.epochs[event["job"]] += event["event"] == "epoch"
        if isinstance(self.settings, PruneSettings):
            self._prune(event, self.settings)
        elif event["event"] == "epoch":
            line = _epoch_line(event, self.rounds)
            self._at(line, line + (", choosing channels" if self.choosing else ""))
        elif event["event"] == "edit":
            self._print(_edit_line(event))
        elif event["event"] == "stop":
            if event["arm"] == "grown":
                self._print(f"{event['job']}: {stop_line(event)}")
        else:
            if _is_grown(event):
                self.stopped[event["seed"]] = event["job"]
            self._print(_result_line(event))
        self._draw()

    def _prune(self, event: dict[str, Any], settings: PruneSettings) -> None:
        """Show an event of a run of ramify prune, with the names of its phases."""
        if event["event"] == "epoch":
            line = prune_lines.epoch_line(event, settings)
            self._at(line, line)
        else:
            if event["event"] == "edit":
                self.cuts[event["job"]] = event
            self.rates |= prune_lines.found_rates([event])
            cut = self.cuts.get(event["job"])
            rate = self.rates.get(event["job"], settings.tuning().lr)
            told = prune_lines.LINES[event["event"]](event, settings)
            told += prune_lines.harm_lines(event, cut, settings, rate)
            for line in told + prune_lines.allowance_lines(event, cut, settings, rate):
                self._print(line)
        if prune_lines.is_cut_next(event, settings):
            self.status.plain = prune_lines.CHOOSING
            if not self.console.is_terminal:  # it may take minutes
                self._print(prune_lines.CHOOSING)

    def _at(self, line: str, status: str) -> None:
        """Show the state after an epoch; without a terminal only now and then."""
        self.status.plain = status
        if not self.console.is_terminal and time.monotonic() - self.written > QUIET:
            self._print(line)

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self.written = time.monotonic()

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        # While channels are chosen, ticks count the epochs of a method that learns.
        completed = self._done() + min(self.fraction, self.phase if self.choosing else 1.0)
        self.progress.update(self.bar, completed=completed, total=self._total())

    def _ends_round(self, event: dict[str, Any]) -> bool:
        if event["event"] != "epoch" or event["arm"] != "grown":
            return False
        return event["epoch"] + 1 == self.settings.epochs and event["round"] < self.rounds

    def _done(self) -> int:
        return sum(self.epochs.values()) + sum(self.learned.values())

    def _total(self) -> int:
        """Epochs of the whole run, fewer for a seed whose network stopped growing early."""
        settings, total = self.settings, 0
        for seed in settings.all_seeds:
            job = self.stopped.get(seed)
            if job and isinstance(settings, GrowSettings):
                total += settings.passes_beside(self.epochs[job]) + self.learned[job]
            else:
                total += settings.passes()
        return total


def _learned(event: dict[str, Any]) -> int:
    """Epochs over the training data in which a method learned; a job's cut counts as one."""
    passes: int = event["passes"] if event["event"] == "edit" else 0
    return passes + (event["event"] == "edit" and event["arm"] == "pruned")


def _is_grown(event: dict[str, Any]) -> bool:
    return event["event"] == "result" and event["arm"] == "grown"


def _epoch_line(event: dict[str, Any], rounds: int) -> str:
    place = f"round {event['round']} of {rounds}, " if event["arm"] == "grown" else ""
    head = f"{event['job']}: {place}epoch {event['epoch'] + 1}, "
    if "loss_p" in event:
        return f"{head}losses on the two halves {event['loss_a']:#.4g} and {event['loss_p']:#.4g}"
    return f"{head}{_tested(event)}, {event['params']:,} parameters"


def _tested(event: Mapping[str, Any]) -> str:
    """The metric of a network; for a candidate of random search, on the second half."""
    metric = Metric.of(event)
    if f"test_{metric.key}" in event:
        return f"test {metric.words} {metric.text(event[f'test_{metric.key}'])}"
    return f"{metric.words} on the validation half {metric.text(event[f'valid_{metric.key}'])}"


def _edit_line(event: dict[str, Any]) -> str:
    taken = [proposal["copies"] for proposal in event["proposals"] if proposal["selected"]]
    pruned = taken.count(0)
    done = [f"split {len(taken) - pruned}"] if len(taken) > pruned else []
    done += [f"pruned {pruned}"] if pruned else []
    blocks = ", ".join(inserted(event))
    more = f"inserted a copy after {blocks}, " if blocks else ""
    channels = len({(p["group"], p["channel"]) for p in event["proposals"]})
    place = f"round {event['round']}, " if event["arm"] == "grown" else ""
    return (
        f"{event['job']}: {place}{more}{' and '.join(done) or 'changed none'} of {channels} "
        f"channels, {event['params_before']:,} -> {event['params_after']:,} parameters, "
        f"loss {event['loss_before']:#.4g} -> {event['loss_after']:#.4g}{_judged(event)}"
    )


def inserted(event: Mapping[str, Any]) -> list[str]:
    """The blocks after which an edit inserted copies."""
    tried = (event.get("blocks") or {}).get("tried", ())
    return [block["behind"] for block in tried if block["inserted"]]


def _judged(event: Mapping[str, Any]) -> str:
    """The predicted loss, if the method predicts it, and how the trial changed the selection."""
    said = []
    if (gain := event["predicted_gain"]) is not None:
        said.append(f"predicted {_change(gain)}")
        if (expected := event.get("expected_gain", gain)) != gain:
            said.append(f"after trials and earlier edits {_change(expected)}")
    if (later := event.get("first_step_gain")) is not None:
        said.append(f"first-order gain of the next gradient step of new neurons {later:#.4g}")
    if (factor := event.get("step_factor", 1.0)) < 1:
        said.append(f"splits at {factor:g} of their full length")
    if event.get("dropped"):
        said.append(f"{event['dropped']} left out")
    if event.get("blocks") and not inserted(event):
        said.append("no new block gained more for its cost")
    return f" ({', '.join(said)})" if said else ""


def _change(gain: float) -> str:
    return f"{abs(gain):#.4g} {'less' if gain >= 0 else 'more'}"


def stop_line(event: Mapping[str, Any]) -> str:
    """Why a network stopped growing, in words."""
    if event["reason"] == "rounds":
        return f"stopped after round {event['round']}, the last one"
    if event["reason"] == "budget":
        budget = " and ".join(f"{name} = {most:,.12g}" for name, most in event["budget"].items())
        return f"stopped after round {event['round']}: the budget {budget} is used up"
    if event["reason"] == "no edit that does not raise the loss":
        return f"stopped after round {event['round']}: every change would raise the loss"
    if event["reason"] == "floors and ceilings":
        return f"stopped after round {event['round']}: every layer is at its floor or ceiling"
    return f"stopped after round {event['round']}: no morphism was worth its cost any more"


def _result_line(event: dict[str, Any]) -> str:
    found = event["genotype"] if event["arm"] == "searched" else _tested(event)
    return (
        f"{event['job']}: finished, {found}, "
        f"{event['params']:,} parameters, {event['steps']:,} steps in {event['seconds']:.0f} s"
    )
