"""The commands: what each takes, and where its work is. They import their work when called.

The options of `grow`, `prune`, `search` and `retrain` are made from their settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from ramify.cli.options import takes
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.retrain_settings import RetrainCellsSettings, RetrainSettings
from ramify.commands.search_settings import SearchSettings
from ramify.commands.settings import RUN, SEARCH, Settings
from ramify.errors import RamifyError
from ramify.imports import place_in_users_code

INTERRUPTED, BAD_INPUT = 130, 2
# Of ramify[cli], imported where they are needed.
EXTRA = {"PIL", "grandalf", "jinja2", "matplotlib", "rich", "sklearn"}


class _OneSentence(typer.core.TyperGroup):
    """A command group that shows a RamifyError as one sentence, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what a user can mend ends in exit code 2, Ctrl-C in 130."""
        try:
            return super().invoke(ctx)
        except RamifyError as error:
            _say(str(error))
            raise typer.Exit(BAD_INPUT) from None
        except ModuleNotFoundError as missing:
            if str(missing.name).partition(".")[0] not in EXTRA:
                raise
            _say(f'{missing.name} is not installed: pip install "ramify[cli]".')
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            place = place_in_users_code(error)
            if place is None and isinstance(error, OSError) and error.filename:
                _say(f"{error.filename}: {error.strerror}: give another, or mend that.")
                raise typer.Exit(BAD_INPUT) from None
            if place is None:
                raise  # an error of Ramify: its traceback says where
            told = error.msg if isinstance(error, SyntaxError) else str(error)
            _say(f"{type(error).__name__}: {told} ({place}): correct it there.")
            raise typer.Exit(BAD_INPUT) from None


def _say(sentence: str) -> None:
    typer.secho("error:", fg="red", bold=True, err=True, nl=False)
    typer.echo(f" {sentence}", err=True)


app = typer.Typer(
    cls=_OneSentence,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Grow, prune or search a PyTorch network while it trains.",
)


def _make(
    kind: type[Settings],
    given: dict[str, Any],
    out: Path | None,
    resume: Path | None,
    config: Path | None,
) -> None:
    """Begin a run of this kind, or go on with one."""
    from ramify.cli import runs

    if resume is not None:
        runs.resume(resume, kind.command(), given, config, out)
    else:
        runs.begin(kind, given, config, out)


@app.command()
@takes(GrowSettings)
def grow(given: dict[str, Any], **files: Path | None) -> None:
    """Train a network and change its shape where that pays: split channels, prune them, or both.

    `ramify grow --data digits` works as it stands: the run folder then holds the grown network,
    every number, and report.html to look at. Ctrl-C stops it, --resume goes on. What is left open
    gets a value that suits data set and method; config.json keeps them all.
    """
    _make(GrowSettings, given, **files)


Order = Annotated[
    int | None,
    typer.Option(
        help="The order of --searcher darts: 1 or 2. Default: 1.",
        rich_help_panel=SEARCH,
        show_default=False,
    ),
]


@app.command()
@takes(PruneSettings, searcher_order=Order)
def prune(given: dict[str, Any], **files: Path | None) -> None:
    """Make a trained network smaller: cut it, let what stays take over, and tune it.

    The full network is yours, by --weights, or is trained first. Channels go where the loss rises
    least once the others have taken over, until --budget holds (half of the MACs where nothing is
    said) or as far as --accept allows; then the rest is tuned. The searchers of the papers, by
    --searcher, score the channels in a search before the cut. `ramify prune --data digits` works as
    it stands: the run folder then holds the small network, every number, and report.html to look
    at. Ctrl-C stops it in any phase, --resume goes on.
    """
    _make(PruneSettings, given, **files)


@app.command()
@takes(SearchSettings)
def search(given: dict[str, Any], **files: Path | None) -> None:
    """Search for the cells of a network: which operations their edges have.

    `ramify search --data digits` works as it stands: the run folder then holds the architecture
    (genotype.json, genotype.txt), its cells drawn, every number, and report.html to look at.
    `ramify retrain RUN` trains what was found, `ramify export RUN` writes it as ONNX. Ctrl-C stops
    it, --resume goes on. What is left open gets a value that suits data set and space; config.json
    keeps them all.
    """
    _make(SearchSettings, given, **files)


Source = Annotated[
    Path | None, typer.Argument(help="A finished run folder, or a network saved by ramify.save.")
]
RetrainOut = Annotated[
    Path | None,
    typer.Option(
        help="A new folder for the run. Default: SOURCE/retrain, or SOURCE-retrain of a network.",
        rich_help_panel=RUN,
    ),
]


@app.command()
@takes(RetrainSettings, RetrainCellsSettings, first={"source": Source}, out=RetrainOut)
def retrain(given: dict[str, Any], source: Path | None, **files: Path | None) -> None:
    """Train the shape that a run arrived at from fresh weights: what it is worth by itself.

    SOURCE is the folder of a finished run (of a search, the cells that it found), whose data, model
    and settings are taken, or a network that ramify.save wrote, which needs --data and --model.
    Results go to SOURCE/retrain, or SOURCE-retrain for a saved network; --out names another folder.
    """
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


@app.command()
def export(
    source: Annotated[
        Path, typer.Argument(help="A finished run folder, or a network saved by ramify.save.")
    ],
    data: Annotated[
        str | None, typer.Option(help="Of a saved network: its data set, named as for grow.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Of a saved network: what builds it, named as for grow.")
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(help="Of a saved network: channels of a layer.", show_default=False),
    ] = None,
) -> None:
    """Write what a run made as ONNX, and try it in onnxruntime where that is installed.

    SOURCE is the folder of a finished run (of a search, one that was retrained), or a network that
    ramify.save wrote, which needs --data and --model. The network of every seed is written, beside
    the saved one.
    """
    from ramify.commands.export import export_source

    given = {"data": data, "model": model, "width": width}
    for written in export_source(source, {k: v for k, v in given.items() if v is not None}):
        checked = (
            "not tried: onnxruntime is not installed"
            if written.checked is None
            else f"onnxruntime predicts the same for {written.checked} test samples, "
            f"largest difference of a score {written.error:.0e}"
        )
        typer.echo(f"{written.path}: {checked}")


@app.command()
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
        int | None, typer.Option(help="Channels of a layer.", show_default=False)
    ] = None,
) -> None:
    """Print the channel groups of a network, what changes together in it, and its blocks."""
    from ramify.commands.show import groups_of

    typer.echo(groups_of(model, data=data, shape=shape, classes=classes, width=width))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The run folder, finished or not.")],
) -> None:
    """Write the page of a run again: RUN/report.html."""
    from ramify.report import write_report

    typer.echo(write_report(run))
