"""Resuming commands: options, results by settings, and parts of a long run."""

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
    """Add every setting of a study as an option of the same name.

    Args:
        parser: of the command.
        usual: the default settings.
    """
    for field in fields(usual):
        value = getattr(usual, field.name)
        parser.add_argument(f"--{field.name}", type=type(value), default=value)


def progress(console: Console) -> Progress:
    """A progress bar and the remaining time for each run of a study.

    Args:
        console: where the bars are drawn.

    Returns:
        The bars, as a context.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def finished(file: Path, settings: DataclassInstance) -> list[dict[str, Any]]:
    """The results of runs with these settings from a file with one result per line.

    Args:
        file: the results; a missing file has none.
        settings: the settings that the runs must have.

    Returns:
        The results, in order.
    """
    return [result for result in _read(file) if result["settings"] == asdict(settings)]


def keep(file: Path, settings: DataclassInstance, results: Sequence[dict[str, Any]]) -> None:
    """Write the results of runs with these settings; results of other settings stay in the file.

    Args:
        file: the results, one per line; its folder is created if needed.
        settings: of the runs.
        results: all results, including those from `finished`; each holds its ``settings``.
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
    """Run everything that a results file does not contain yet, and save each result at once.

    Args:
        file: the results, one per line.
        settings: of all runs.
        keys: what distinguishes the runs with these settings, such as ``{"seed": 0}``, in order.
        run: called with the entries of a key as keyword arguments; returns the rest of the result.

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
    """A function that saves the parts of a long run, one file each, so that it can be resumed.

    Args:
        folder: for the files; files of other settings are kept separate.
        settings: of the run.

    Returns:
        The function. It saves tensors and plain values in dictionaries, lists and tuples, and
        restores the random states as they were after a part was made.
    """
    mine = folder_of(folder, settings)
    mine.mkdir(parents=True, exist_ok=True)
    return partial(_stage, mine)


def folder_of(folder: Path, settings: DataclassInstance) -> Path:
    """The subfolder for these settings only."""
    held = json.dumps(asdict(settings)).encode()
    return folder / hashlib.sha256(held).hexdigest()[:8]


def once(name: str, make: Callable[[], Any]) -> Any:
    """The `Stage` that saves nothing."""
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
