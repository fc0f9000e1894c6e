"""Commands that go on from what is finished: options, results by settings, parts of a long run."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ramify.store.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ramify.store.files import write_lines
from ramify.store.state import random_states, set_random_states

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Stage = Callable[[str, Callable[[], Any]], Any]
"""(name, make) -> what ``make()`` gives, or gave in an earlier call of the command."""


def add_settings(parser: argparse.ArgumentParser, usual: DataclassInstance) -> None:
    """Make every setting of a study an option of its name.

    Args:
        parser: of the command.
        usual: the settings where nothing is asked for.
    """
    for field in fields(usual):
        value = getattr(usual, field.name)
        parser.add_argument(f"--{field.name}", type=type(value), default=value)


def progress(console: Console) -> Progress:
    """A bar and the time left for each run of a study.

    Args:
        console: where they are drawn.

    Returns:
        The bars, as a context.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def finished(file: Path, settings: DataclassInstance) -> list[dict[str, Any]]:
    """What a file of results, one a line, holds of runs with these settings.

    Args:
        file: the results; none where it is not there.
        settings: what the runs must have had.

    Returns:
        The results, in order.
    """
    return [result for result in _read(file) if result["settings"] == asdict(settings)]


def keep(file: Path, settings: DataclassInstance, results: Sequence[dict[str, Any]]) -> None:
    """Write the results of runs with these settings; those of other settings stay in the file.

    Args:
        file: the results, one a line; its folder is made where it is not there.
        settings: what the runs had.
        results: all of them, those that `finished` gave too; each holds its ``settings``.
    """
    others = [result for result in _read(file) if result["settings"] != asdict(settings)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_lines(file, [*others, *results])


def completed(
    file: Path,
    settings: DataclassInstance,
    keys: Iterable[dict[str, Any]],
    run: Callable[..., dict[str, Any]],
) -> list[dict[str, Any]]:
    """Run what a file of results does not hold yet, and keep each as soon as it is there.

    Args:
        file: the results, one a line.
        settings: of all runs.
        keys: what tells the runs of these settings apart, such as ``{"seed": 0}``, in order.
        run: called with a key's entries by name; gives the rest of its result.

    Returns:
        All results with these settings; each holds its key and its ``settings``.
    """
    results = finished(file, settings)
    for key in keys:
        if not any(key.items() <= result.items() for result in results):
            results.append(key | run(**key) | {"settings": asdict(settings)})
            keep(file, settings, results)
    return results


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def stages(folder: Path, settings: DataclassInstance) -> Stage:
    """What keeps the parts of a long run, a file each, so that a stopped one goes on behind them.

    Args:
        folder: for the files; those of other settings stay apart.
        settings: what the run has.

    Returns:
        The function. What is kept consists of tensors and plain values in dictionaries, lists and
        tuples; the random states go on as they were after it was made.
    """
    mine = folder_of(folder, settings)
    mine.mkdir(parents=True, exist_ok=True)
    return partial(_stage, mine)


def folder_of(folder: Path, settings: DataclassInstance) -> Path:
    """The folder inside of another that is for these settings alone."""
    held = json.dumps(asdict(settings)).encode()
    return folder / hashlib.sha256(held).hexdigest()[:8]


def once(name: str, make: Callable[[], Any]) -> Any:
    """The `Stage` that keeps nothing."""
    return make()


def _stage(folder: Path, name: str, make: Callable[[], Any]) -> Any:
    file = folder / f"{name}.safetensors"
    if not file.exists():
        found = make()
        write_checkpoint(file, Checkpoint("stage", {"found": found}, [random_states()], []))
        return found
    kept = read_checkpoint(file, "stage")
    set_random_states(kept.random[0])
    return kept.state["found"]
