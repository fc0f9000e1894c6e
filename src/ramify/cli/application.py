"""The commands: what each takes, and where its work is. They import their work when called.

The options of `grow`, `prune`, `search` and `retrain` are made from their settings.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from ramify.cli.options import takes
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.retrain_settings import RetrainCellsSettings, RetrainSettings
from ramify.commands.search_settings import SearchSettings
from ramify.commands.settings import RUN, SEARCH, SWEEP, Settings
from ramify.errors import RamifyError, first_line
from ramify.imports import place_in_users_code

INTERRUPTED, BAD_INPUT = 130, 2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
NO_MEMORY = ("can't allocate memory", "CUDA out of memory", "not enough memory")  # torch's words
LONG = 200  # characters of another library's sentence
# Of ramify[cli], imported where they are needed.
EXTRA = {"PIL", "grandalf", "jinja2", "matplotlib", "rich", "sklearn"}


class _OneSentence(typer.core.TyperGroup):
    """A command group that shows a RamifyError as one sentence, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what a user can mend ends in exit code 2, Ctrl-C in 130."""
        for stream in (sys.stdout, sys.stderr):  # a name may hold what a terminal cannot show
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _told_plainly(warnings.showwarning)
                return super().invoke(ctx)
        except typer.Exit:  # as of --help
            raise
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if hasattr(error, "format_message") and "WORLD_SIZE" not in os.environ:
                raise  # click's, of one process: torch need not be loaded for it
            from ramify.commands.launched import launched, whose
            from ramify.peers import said_elsewhere

            if hasattr(error, "format_message"):  # click's, before the processes have met
                with suppress(type(error)), launched():
                    raise error
            elsewhere, said = said_elsewhere(error), _sentence(error)
            if isinstance(error, KeyboardInterrupt):
                if str(error) and not elsewhere:  # how to go on
                    typer.echo(f"{whose()}{error}")
                raise typer.Exit(INTERRUPTED) from None
            if said:
                if not elsewhere:
                    typer.secho("error:", fg="red", bold=True, err=True, nl=False)
                    typer.echo(f" {whose()}{said}", err=True)
                raise typer.Exit(BAD_INPUT) from None
            if elsewhere:
                raise typer.Exit(getattr(error, "exit_code", 1)) from None
            raise  # an error of Ramify: its traceback says where


def _told_plainly(otherwise: Callable[..., None]) -> Callable[..., None]:
    """Print the warnings of Ramify as one line each, without the place in its code."""
    package = str(Path(__file__).parents[1]) + os.sep

    def told(message: Warning | str, kind: type[Warning], path: str, *rest: Any) -> None:
        if kind is UserWarning and path.startswith(package):
            typer.echo(f"warning: {str(message).removesuffix('.')}.", err=True)
        else:
            otherwise(message, kind, path, *rest)

    return told


def _sentence(error: BaseException) -> str:
    """What the user is told of an error; empty for one of Ramify, whose traceback is shown."""
    if isinstance(error, RamifyError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and _top(error) in EXTRA:
        return f'{error.name} is not installed: pip install "ramify[cli]".'
    if said := _refusal_of_the_system(error):
        return said
    if place := place_in_users_code(error):
        told = error.msg if isinstance(error, SyntaxError) else str(error)
        return f"{type(error).__name__}: {told} ({place}): correct it there."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}: give another path, or correct that one."
    return ""


def _top(missing: ModuleNotFoundError) -> str:
    """The package whose module is missing."""
    return str(missing.name).partition(".")[0]


def _refusal_of_the_system(error: BaseException) -> str:
    """What the system has no room for, in a sentence; empty where it refused nothing of that."""
    if isinstance(error, OSError) and error.errno in FULL and not error.filename:
        return f"what is printed cannot be written ({error.strerror}): give it another place."
    if isinstance(error, FileNotFoundError) and not error.filename:
        return "the current directory is not there any more: go to one that is."
    words = first_line(error)
    if isinstance(error, MemoryError) or any(part in str(error) for part in NO_MEMORY):
        return (
            f"there is not enough memory ({words[:LONG]}): make the network, the batch or the "
            "data smaller, or free some."
        )
    return ""


app = typer.Typer(
    cls=_OneSentence,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Grow, prune or search a PyTorch network while it trains.",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"ramify {version('ramify')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _make(
    kind: type[Settings],
    given: dict[str, Any],
    out: Path | None,
    resume: Path | None,
    config: Path | None,
) -> None:
    """Begin a run of this kind, or go on with one."""
    from ramify.cli import runs
    from ramify.commands.launched import launched

    with launched():
        if resume is not None:
            runs.resume(resume, kind.command(), given, config, out)
        else:
            runs.begin(kind, given, config, out)


@app.command(short_help="Grow a network while it trains.")
@takes(GrowSettings)
def grow(given: dict[str, Any], **files: Path | None) -> None:
    """Train a network and change its shape as it trains: split channels, prune them, or both.

    Try `ramify grow --data digits`. The run folder holds the grown network, all measurements, and
    the page report.html. Ctrl-C stops the run, --resume continues it. Options that you leave out
    get values that suit the data set and the method; config.json records all of them.
    """
    _make(GrowSettings, given, **files)


Order = Annotated[
    int | None,
    typer.Option(
        help="The order of DARTS, with --searcher darts: 1 or 2. Default: 1.",
        rich_help_panel=SEARCH,
        show_default=False,
    ),
]


@app.command(short_help="Make a trained network smaller.")
@takes(PruneSettings, searcher_order=Order)
def prune(given: dict[str, Any], **files: Path | None) -> None:
    """Make a trained network smaller: cut it, refit the remaining channels, and fine-tune it.

    The full network is your own, given by --weights, or is trained first. Channels whose removal
    raises the loss least after the others are refitted are cut, until the network is within
    --budget (half of the MACs by default) or as far as --accept allows; then it is fine-tuned. With
    --searcher, a search method of one of the papers scores the channels before the cut.

    Try `ramify prune --data digits`. The run folder holds the small network, all measurements, and
    the page report.html. Ctrl-C stops the run in any phase, --resume continues it.
    """
    _make(PruneSettings, given, **files)


@app.command(short_help="Search for the cells of a network.")
@takes(SearchSettings)
def search(given: dict[str, Any], **files: Path | None) -> None:
    """Search for the cells of a network, that is, for the operations on their edges.

    Try `ramify search --data digits`. The run folder holds the architecture (genotype.json,
    genotype.txt), drawings of its cells, all measurements, and the page report.html. Then
    `ramify retrain RUN` trains the architecture, and `ramify export RUN` writes the result as ONNX.
    Ctrl-C stops the search, --resume continues it. Options that you leave out get values that suit
    the data set and the space; config.json records all of them.
    """
    _make(SearchSettings, given, **files)


Source = Annotated[
    Path | None, typer.Argument(help="A finished run folder, or a network saved by ramify.save.")
]
RetrainOut = Annotated[
    Path | None,
    typer.Option(
        help="A new folder for the run. Default: SOURCE/retrain, or SOURCE-retrain for a saved "
        "network.",
        rich_help_panel=RUN,
    ),
]


@app.command(short_help="Train the final shape of a run from scratch.")
@takes(RetrainSettings, RetrainCellsSettings, first={"source": Source}, out=RetrainOut)
def retrain(given: dict[str, Any], source: Path | None, **files: Path | None) -> None:
    """Train the final shape of a run from scratch, to measure the shape by itself.

    SOURCE is the folder of a finished run, whose data, model and settings are used (for a search,
    the cells that it found), or a network that ramify.save wrote, which needs --data and --model.
    Results go to SOURCE/retrain, or SOURCE-retrain for a saved network; --out sets another folder.
    """
    from ramify.commands.launched import launched

    with launched():
        _retrain(given, source, **files)


def _retrain(given: dict[str, Any], source: Path | None, **files: Path | None) -> None:
    from ramify.cli import runs
    from ramify.commands.retrain import begin

    if files["resume"] is not None:
        if source is not None:
            raise RamifyError("give either a network to retrain or --resume RUN, not both.")
        runs.resume(files["resume"], "retrain", given, files["config"], files["out"])
    elif source is None:
        raise RamifyError("nothing to retrain was given; give a run folder or a saved network.")
    else:
        runs.execute(*begin(source, given, files["config"], files["out"]))


@app.command(short_help="Export the networks of a run to ONNX.")
def export(
    source: Annotated[
        Path, typer.Argument(help="A finished run folder, or a network saved by ramify.save.")
    ],
    data: Annotated[
        str | None, typer.Option(help="For a saved network: its data set, named as for grow.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="For a saved network: its model, named as for grow."),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            help="For a saved network: its number of channels, as for grow.", show_default=False
        ),
    ] = None,
) -> None:
    """Export the networks of a run to ONNX, and check them in onnxruntime if it is installed.

    SOURCE is the folder of a finished run (a search must have been retrained), or a network that
    ramify.save wrote, which needs --data and --model. The network of every seed is written next to
    the saved one.
    """
    from ramify.commands.export import export_source
    from ramify.commands.launched import refuse_launched

    refuse_launched("export")

    given = {"data": data, "model": model, "width": width}
    for written in export_source(source, {k: v for k, v in given.items() if v is not None}):
        checked = (
            "not tried: onnxruntime is not installed"
            if written.checked is None
            else f"onnxruntime predicts the same for {written.checked} test samples, "
            f"largest difference of a score {written.error:.0e}"
        )
        typer.echo(f"{written.path}: {checked}")


@app.command(short_help="Print the channel groups of a network.")
def show(
    model: Annotated[
        str,
        typer.Argument(
            help="A built-in network, or package.module:object, as for grow; or the folder of a "
            "finished run, whose first network is shown."
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="Build it for this data set, named as for grow.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--input", help="Or build it for inputs of this shape, such as 1,3,32,32."),
    ] = None,
    classes: Annotated[int, typer.Option(help="With --input: the number of classes.")] = 10,
    width: Annotated[
        int | None, typer.Option(help="Number of channels, as for grow.", show_default=False)
    ] = None,
) -> None:
    """Print the channel groups of a network (what is edited together), its blocks and its cost."""
    from ramify.commands.launched import refuse_launched
    from ramify.commands.show import groups_of

    refuse_launched("show")

    typer.echo(groups_of(model, data=data, shape=shape, classes=classes, width=width))


@app.command(short_help="Write the report page of a run again.")
def report(
    run: Annotated[Path, typer.Argument(help="The run folder, finished or not.")],
) -> None:
    """Write the report page of a run again: RUN/report.html."""
    from ramify.commands.launched import refuse_launched
    from ramify.report import write_report

    refuse_launched("report")

    typer.echo(write_report(run))


@app.command(short_help="Compare several runs on one page.")
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders, finished or not, or a folder that contains run folders, "
            "such as that of a sweep."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("compare.html"),
    latency: Annotated[
        bool,
        typer.Option(
            "--latency",
            help="Also measure the latency of the saved networks on this machine, in milliseconds.",
        ),
    ] = False,
) -> None:
    """Compare several runs on one page: accuracy against cost, settings, tables to copy.

    The page shows the Pareto front of accuracy (or the metric of another task) against parameters,
    MACs and, with --latency, milliseconds; the settings in which the runs differ; and tables of all
    numbers to copy. An existing page of that name is overwritten.
    """
    from ramify.commands.launched import refuse_launched
    from ramify.report import write_comparison

    refuse_launched("compare")

    page = write_comparison(runs, out, latency=latency)
    typer.echo(f"to view it, open {page} in a browser")


sweeping = typer.Typer(
    no_args_is_help=True,
    help="Run a command many times with varied settings, and compare the runs on one page.",
)
app.add_typer(sweeping, name="sweep", short_help="Run a command many times with varied settings.")

VARIED: dict[str, Any] = {
    "vary": Annotated[
        list[str] | None,
        typer.Option(
            help="A setting to vary and its values, such as method=s2d,random or lr=0.01..0.3:log "
            "(:log draws log-uniformly); give it once for each setting.",
            rich_help_panel=SWEEP,
        ),
    ],
    "trials": Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of runs, over all processes together. Default: one for every combination "
            "of the values, or 20 if a range is varied.",
            rich_help_panel=SWEEP,
        ),
    ],
    "against": Annotated[
        str | None,
        typer.Option(
            help="The cost to minimise while the test accuracy is maximised: params or macs. "
            "Default: params.",
            rich_help_panel=SWEEP,
        ),
    ],
    "storage": Annotated[
        str | None,
        typer.Option(
            help="Where Optuna stores the trials: a file in the sweep's folder or, if several "
            "machines work together, the URL of a database, such as postgresql://... Default: "
            "trials.log.",
            rich_help_panel=SWEEP,
        ),
    ],
    "study": Annotated[
        str | None,
        typer.Option(
            help="The name of the sweep in the storage. Default: ramify.", rich_help_panel=SWEEP
        ),
    ],
    "out": Annotated[
        Path | None,
        typer.Option(
            help="A new folder for the sweep, with a run folder for each trial. "
            "Default: runs/sweep-DATA, numbered.",
            rich_help_panel=RUN,
        ),
    ],
    "resume": Annotated[
        Path | None,
        typer.Option(
            help="Resume a sweep, also while another process works on it. Its settings are kept; "
            "only --trials and --device may differ.",
            rich_help_panel=RUN,
        ),
    ],
}


def _sweep(
    kind: type[Settings],
    given: dict[str, Any],
    out: Path | None,
    resume: Path | None,
    config: Path | None,
) -> None:
    """Begin a sweep of this kind of runs, or go on with one."""
    from ramify.cli import sweeps
    from ramify.commands.launched import refuse_launched

    refuse_launched("sweep")
    if resume is not None:
        sweeps.resume(resume, kind.command(), given, {"out": out, "config": config})
    else:
        sweeps.begin(kind, given, config, out)


@sweeping.command("grow")
@takes(GrowSettings, **VARIED)
def sweep_grow(given: dict[str, Any], **files: Path | None) -> None:
    """Run ramify grow many times with varied settings.

    If --trials allows every combination of the values, each is tried once. Otherwise Optuna draws
    trials, for high accuracy at low cost. Every trial is a run folder; compare.html shows all of
    them. Ctrl-C stops the sweep, --resume continues it, and a second process with the same
    --resume works in parallel.
    """
    _sweep(GrowSettings, given, **files)


@sweeping.command("prune")
@takes(PruneSettings, **VARIED)
def sweep_prune(given: dict[str, Any], **files: Path | None) -> None:
    """Run ramify prune many times with varied settings.

    For example, --vary budget=macs=70%,macs=50%,macs=30%.

    If --trials allows every combination of the values, each is tried once. Otherwise Optuna draws
    trials, for high accuracy at low cost. Every trial is a run folder; compare.html shows all of
    them. Ctrl-C stops the sweep, --resume continues it, and a second process with the same
    --resume works in parallel.
    """
    _sweep(PruneSettings, given, **files)
