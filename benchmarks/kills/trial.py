"""One trial: a command is killed and resumed, and compared with one that was not killed."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.kills.commands import COMMANDS, Command
from benchmarks.kills.process import NEVER, Ended, Kill, Started

TIMES = {"t", "seconds", "latency"}  # measured times, which are not compared
KEPT = ("*.safetensors", "model*.json", "genotype*", "shape*.json", "scores*.json")
MOST = 5  # most kills in a trial
TWICE = 0.25  # share of starts with two simultaneous processes
BEFORE_A_FILE = 0.5  # share of kills before a file operation; the others are at a random time
MAY_REFUSE = ("is in use by", "already holds a run")


@dataclass(frozen=True)
class Whole:
    """A run without kills.

    Attributes:
        content: The contents of its folder.
        operations: The number of its file operations.
        seconds: Its duration.
    """

    content: dict[str, Any]
    operations: int
    seconds: float


@dataclass
class Trial:
    """The result of a trial.

    Attributes:
        command: Its name in the table.
        seed: Seed of all random choices.
        kills: How often a process was killed.
        again: How often the command was restarted because the run had not begun.
        twice: How often two processes were started simultaneously.
        refused: How often one of the two was refused with a reason.
        outcome: ``same``, or what is wrong.
    """

    command: str
    seed: int
    kills: int = 0
    again: int = 0
    twice: int = 0
    refused: int = 0
    outcome: str = "same"
    said: list[str] = field(default_factory=list)

    def wrong(self, what: str, text: str = "") -> None:
        """Record what is wrong; only the first is kept."""
        if self.outcome == "same":
            self.outcome = what
        self.said.append(text[-2000:])

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def whole(name: str, folder: Path, sources: Path) -> Whole:
    """Run a command to its end without a kill.

    Args:
        name: the name of the command.
        folder: the folder for its run.
        sources: the folder with the runs that other commands read.

    Returns:
        The run.

    Raises:
        RuntimeError: the command failed.
    """
    command = COMMANDS[name]
    _prepare(command, folder, sources)
    ended = Started(command.begin(folder, sources), folder, NEVER).ended()
    if ended.code:
        raise RuntimeError(f"{name} ended with {ended.code}: {ended.text}")
    return Whole(content(folder), ended.operations, ended.seconds)


def run(name: str, seed: int, folder: Path, sources: Path, known: Whole) -> Trial:
    """Run one trial.

    Args:
        name: the name of the command.
        seed: seed of all random choices.
        folder: a new folder for its run.
        sources: as in :func:`whole`.
        known: the run without kills.

    Returns:
        The result.
    """
    trial, draw, command = Trial(name, seed), random.Random(seed), COMMANDS[name]
    _prepare(command, folder, sources)
    for _ in range(draw.randint(1, MOST)):
        kill = _drawn(draw, known)
        if draw.random() < TWICE:
            _two(trial, command, folder, sources, (kill, _drawn(draw, known)))
        else:
            _one(trial, command, folder, sources, kill)
        if trial.outcome != "same":
            return trial
    ended = _one(trial, command, folder, sources, NEVER)
    if trial.outcome == "same" and ended.code:
        trial.wrong(f"it ended with {ended.code}", ended.text)
    elif trial.outcome == "same" and (other := _difference(content(folder), known.content)):
        trial.wrong(f"{other} is another")
    return trial


def content(folder: Path) -> dict[str, Any]:
    """The contents of a run folder: files as bytes, events without times."""
    found: dict[str, Any] = {}
    for pattern in KEPT:
        found |= {path.name: path.read_bytes() for path in sorted(folder.glob(pattern))}
    found |= {f".tmp {path.name}": 1 for path in folder.glob(".ramify*")}
    events = (folder / "metrics.jsonl").read_text().splitlines()
    found["metrics.jsonl"] = [_timeless(json.loads(line)) for line in events]
    return found | {name: (folder / name).exists() for name in ("report.html", "lock")}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    names = sorted(name for name in one.keys() | other if one.get(name) != other.get(name))
    return names[0] if names else None


def _prepare(command: Command, folder: Path, sources: Path) -> None:
    if not command.resumes:
        assert command.source is not None
        shutil.copytree(sources / command.source, folder)


def _drawn(draw: random.Random, known: Whole) -> Kill:
    """A kill before a file operation, or at a time."""
    if draw.random() < BEFORE_A_FILE:
        return Kill(operation=draw.randint(1, known.operations))
    return Kill(seconds=draw.uniform(0, known.seconds))


def _arguments(trial: Trial, command: Command, folder: Path, sources: Path) -> tuple[str, ...]:
    if command.resumes and (folder / "config.json").exists():
        return command.go_on(folder)
    trial.again += trial.kills > 0 and command.resumes
    return command.begin(folder, sources)


def _one(trial: Trial, command: Command, folder: Path, sources: Path, kill: Kill) -> Ended:
    ended = Started(_arguments(trial, command, folder, sources), folder, kill).ended()
    _judge(trial, ended, kill)
    return ended


def _two(
    trial: Trial, command: Command, folder: Path, sources: Path, kills: tuple[Kill, Kill]
) -> None:
    """Start two processes at once: one works, and the other is refused or runs after it."""
    trial.twice += 1
    arguments = _arguments(trial, command, folder, sources)
    both = [Started(arguments, folder, kill) for kill in kills]
    for started, kill in zip(both, kills, strict=True):
        ended = started.ended()
        if ended.code == 2 and any(words in ended.text for words in MAY_REFUSE):
            trial.refused += 1
        else:
            _judge(trial, ended, kill)


def _judge(trial: Trial, ended: Ended, kill: Kill) -> None:
    if ended.code == -9 and kill != NEVER:
        trial.kills += 1
    elif ended.code:
        trial.wrong(f"it ended with {ended.code}", ended.text)
