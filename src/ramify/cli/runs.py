"""Runs that a command begins or goes on with, shown while they last."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from ramify import distributed
from ramify.commands.command_line import command_line, options_for
from ramify.commands.display import Display
from ramify.commands.jobs import run_jobs, save_unfinished
from ramify.commands.launched import launcher
from ramify.commands.random_search import with_candidates
from ramify.commands.run_folder import CONFIG, RETRAINED, RunFolder, root_from
from ramify.commands.run_kinds import RUN_KINDS, kind_of
from ramify.commands.run_lock import locked
from ramify.commands.run_sources import SOURCES, changes, sources_of
from ramify.commands.search_settings import SearchSettings
from ramify.commands.settings import DOORS, Settings
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.report import (
    print_table,
    read_events,
    results_table,
    write_report,
    write_summary,
)
from ramify.store.disk import make_folder, refusals_named, sweep
from ramify.train.logs import TensorBoard, numbers

TENSORBOARD = "tensorboard"  # the folder in that of a run, with one in it for each network
Told = Callable[[dict[str, Any]], None]


def begin(
    kind: type[Settings], given: Mapping[str, Any], base: Path | None, out: Path | None
) -> None:
    """Begin a run and make it."""
    start(kind, given, kind.of_file(base, given), out)


def start(
    kind: type[Settings], given: Mapping[str, Any], base: Mapping[str, Any], out: Path | None
) -> None:
    """Make a run with these settings over those of a file, in a folder of its own."""
    here = Path.cwd()
    settings = kind.resolve(given, base)
    dataset = RUN_KINDS[settings.kind].prepare(settings)
    options = options_for(settings, kind.resolve) if base else given
    again = command_line(kind.command(), options)
    settings = settings.suited(dataset, {**base, **given})
    if isinstance(settings, SearchSettings):
        settings = with_candidates(settings, dataset)
    sources = {SOURCES: sources_of(settings, dataset)}
    root = root_from(here)
    path = (
        root / out
        if out
        else distributed.from_rank_zero(lambda: claimed_folder(settings.data, root))
    )
    folder = RunFolder.create(path, settings.to_json(), sources, again)
    execute(settings, folder, dataset)


def resume(
    path: Path, command: str, given: Mapping[str, Any], base: Path | None, out: Path | None
) -> None:
    """Go on with a run; only the device may be another."""
    for name, value in (("--out", out), ("--config", base)):
        if value is not None:
            raise RamifyError(f"{name} and --resume exclude each other; give --resume RUN alone.")
    folder = RunFolder.open(path)
    kind, own = kind_of(folder.config()), folder.command()
    if own != command:
        raise RamifyError(f"{path} is a run of ramify {own}; use ramify {own} --resume {path}.")
    device = {key: value for key, value in given.items() if key == "device"}
    plain = json.loads(json.dumps(kind.settings.tidied(given)))
    folder.check({key: value for key, value in plain.items() if key != "device"})
    folder.refuse_foreign(DOORS, given)
    read_events(path)  # a damaged line shows before anything is done
    here = Path.cwd()
    settings = kind.settings.from_json(folder.config()).model_copy(update=device)
    dataset = kind.prepare(settings)
    folder = RunFolder(root_from(here) / path)
    for sentence in changes(folder, settings, dataset):
        say(_console(stderr=True), f"warning: {sentence}")
    execute(settings, folder, dataset)


def claimed_folder(data: str, root: Path = Path()) -> Path:
    """Make ``runs/NAME`` or the first ``runs/NAME-2``, ... that is free; ``.csv`` is left out."""
    name, number = re.sub(r"\.csv(?=:|$)", "", Path(data).name).replace(":", "-"), 1
    path = root / "runs" / name
    make_folder(path.parent)
    while True:
        try:
            with refusals_named(path):
                path.mkdir()  # of two processes that begin at once, each gets its own
        except RamifyError as refused:
            if not isinstance(refused.__cause__, FileExistsError):
                raise
            number += 1
            path = root / "runs" / f"{name}-{number}"
        else:
            return path


def execute(settings: Settings, folder: RunFolder, dataset: Dataset) -> None:
    """Run the jobs with a display; whatever stops them, the folder is left ready to use."""
    with locked(folder.path) if distributed.is_rank_zero() else nullcontext():
        distributed.from_rank_zero(lambda: sweep(folder.path, alone=True))
        _execute(settings, folder, dataset)


def _execute(settings: Settings, folder: RunFolder, dataset: Dataset) -> None:
    console, run = _console(), kind_of(settings.to_json()).run
    say(console, f"run folder: {folder.path}")
    say(console, str(dataset))
    if unseen := dataset.unseen():
        say(_console(stderr=True), f"warning: {unseen}.")
    try:
        with Display(console, settings, folder.events()) as display:
            told = _told(settings, folder, display.event)
            run_jobs(settings, folder, dataset, told, display.tick, run=run)
    except BaseException as stop:
        ended = str(stop) or "stopped" if isinstance(stop, KeyboardInterrupt) else ""
        if distributed.is_rank_zero():
            try:
                with suppress(RamifyError):
                    save_unfinished(folder)
                    write_report(folder.path)
            except KeyboardInterrupt as signal:  # of torchrun, while it says what another did
                ended = str(signal) or "stopped"
        if ended:
            again = f"{launcher()} {folder.command()} --resume {folder.path}"
            raise KeyboardInterrupt(f"{ended}; to continue: {again}") from None
        raise
    distributed.from_rank_zero(lambda: _report(folder, console))


def _report(folder: RunFolder, console: Console) -> None:
    """Write what came of a run, and say it."""
    write_summary(folder.path)
    if folder.path.name == RETRAINED and (folder.path.parent / CONFIG).exists():
        write_report(folder.path.parent)  # it shows what came of the retraining
    if rows := results_table(folder.events()):
        print_table(rows, console)
    say(console, f"to view it, open {write_report(folder.path)} in a browser")


def _console(*, stderr: bool = False) -> Console:
    """Where a run is shown; of several processes the first one shows it."""
    return Console(stderr=stderr, quiet=not distributed.is_rank_zero())


def _told(settings: Settings, folder: RunFolder, show: Told) -> Told:
    """What is called with each event: the display, and a TensorBoard log where asked for."""
    boards: dict[str, TensorBoard] = {}

    def told(event: dict[str, Any]) -> None:
        show(event)
        if settings.tensorboard and "step" in event:
            job = event["job"]
            board = boards.setdefault(job, TensorBoard(folder.path / TENSORBOARD / job))
            board.log(numbers(event))

    return told


def say(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
