"""What the commands share: the application, settings as given, runs begun and gone on with."""

import itertools
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
import typer.core
from rich.console import Console

from ramify.commands.config import RunConfig
from ramify.commands.display import Display
from ramify.commands.folder import CONFIG, RETRAINED, RunFolder
from ramify.commands.jobs import run_jobs, save_unfinished
from ramify.commands.kinds import kind_of
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.report import print_table, results_table, write_report, write_summary
from ramify.select import BUDGETS

INTERRUPTED = 130
BAD_INPUT = 2


class _OneSentence(typer.core.TyperGroup):
    """A command group that shows a RamifyError as one sentence, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what a user can mend ends in exit code 2, Ctrl-C in 130."""
        try:
            return super().invoke(ctx)
        except RamifyError as error:
            console = Console(stderr=True)
            console.print("error:", style="bold red", end=" ")
            console.print(str(error), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_OneSentence,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Grow or shrink a PyTorch network while it trains.",
)


def given_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The settings among the options of a command, those left open left out."""
    given = {key: value for key, value in options.items() if value is not None and value != []}
    for name in ("out", "resume", "source"):
        given.pop(name, None)
    if "budget" in given:
        given["budget"] = _budgets(given["budget"])
    if "groups" in given:
        given["groups"] = tuple(given["groups"].split(","))
    if "copies" in given:
        given["copies"] = _numbers(int, "--copies", given["copies"], "2,3,4")
    if "milestones" in given:
        given["milestones"] = _numbers(float, "--milestones", given["milestones"], "0.5,0.75")
    return given


def _numbers(kind: type[int] | type[float], option: str, text: str, example: str) -> Any:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise RamifyError(f"{option} is {text!r}; give numbers such as {example}.") from None


def _budgets(texts: Iterable[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, most = (part.strip() for part in text.partition("="))
        if name in found:
            raise RamifyError(f"--budget names {name} twice; give each once.")
        try:
            found[name] = float(most)
        except ValueError:
            raise RamifyError(
                f"--budget is {text!r}; give one of {', '.join(BUDGETS)} and a number, such as "
                "params=1.2e6."
            ) from None
    return found


def reopen(
    path: Path, out: Path | None, given: dict[str, Any], command: str
) -> tuple[RunConfig, RunFolder, Dataset]:
    """An earlier run with its settings; only the device may be another.

    Args:
        path: The run folder.
        out: Must be None.
        given: Settings given again, which must be those of the run.
        command: The command that was called.

    Returns:
        Settings, folder and data.

    Raises:
        RamifyError: The folder is no run of this command, or a setting differs.
    """
    if out is not None:
        raise RamifyError("--out and --resume exclude each other; give --resume RUN alone.")
    folder = RunFolder.open(path)
    own = folder.command()
    if own != command:
        raise RamifyError(f"{path} is a run of ramify {own}; use ramify {own} --resume {path}.")
    device = {key: value for key, value in given.items() if key == "device"}
    plain = json.loads(json.dumps(given))
    folder.check({key: value for key, value in plain.items() if key != "device"})
    kind = kind_of(folder.config())
    config = replace(kind.config.from_json(folder.config()), **device)
    return config, folder, kind.prepare(config)


def free_folder(data: str) -> Path:
    """``runs/NAME``, or the first ``runs/NAME-2``, ... that is not there yet."""
    name = Path(data).name
    numbered = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return next(path for path in numbered if not path.exists())


def execute(config: RunConfig, folder: RunFolder, dataset: Dataset) -> None:
    """Run the jobs with a display; whatever stops them, the folder is left ready to use."""
    console, run = Console(), kind_of(config.to_json()).run
    say(console, f"run folder: {folder.path}")
    try:
        with Display(console, config, folder.events()) as display:
            run_jobs(config, folder, dataset, display.event, display.tick, run)
    except BaseException as stop:
        with suppress(RamifyError):
            save_unfinished(config, folder)
            write_report(folder.path)
        if isinstance(stop, KeyboardInterrupt):
            say(console, f"stopped; to go on: ramify {config.command} --resume {folder.path}")
        raise
    write_summary(folder.path)
    if folder.path.name == RETRAINED and (folder.path.parent / CONFIG).exists():
        write_report(folder.path.parent)  # it shows what came of the retraining
    if rows := results_table(folder.events()):
        print_table(rows, console)
    say(console, f"to look at it, open {write_report(folder.path)} in a browser")


def say(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
