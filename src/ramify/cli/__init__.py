"""The command line: ``ramify grow``, ``ramify retrain``, ``ramify show``, ``ramify report``."""

import itertools
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import typer.core
from rich.console import Console

from ramify.cli import options
from ramify.data import Dataset, load
from ramify.errors import RamifyError
from ramify.models import build
from ramify.report import print_table, results_table, write_report, write_summary
from ramify.run import retrain as retraining
from ramify.run.config import GrowConfig, TrainConfig
from ramify.run.display import Display
from ramify.run.folder import CONFIG, RETRAINED, RunFolder
from ramify.run.jobs import prepare, run_jobs, save_unfinished, try_model
from ramify.select import BUDGETS
from ramify.trace import trace

CONFIGS: dict[str, type[TrainConfig]] = {
    kind.command: kind for kind in (GrowConfig, retraining.RetrainConfig)
}
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
    help="Grow a PyTorch network while it trains.",
)


GROW_HELP = (
    "Train a network and change its shape where that pays: split channels, prune them, or both. "
    "`ramify grow --data digits` works as it stands: the run folder then holds the grown network, "
    "every number, and report.html to look at. Ctrl-C stops it, --resume goes on. "
    "What is left open gets a value that suits data set and method; config.json keeps them all."
)


@app.command(help=GROW_HELP)
def grow(  # noqa: PLR0913, PLR0917  (one argument an option)
    data: options.Data = None,
    model: options.Model = None,
    width: options.Width = None,
    method: options.MethodName = None,
    rounds: options.Rounds = None,
    budget: options.Budget = None,
    multiple_of: options.MultipleOf = None,
    fraction: options.Fraction = None,
    most: options.Most = None,
    threshold: options.Limit = None,
    step: options.Step = None,
    signed: options.Signed = None,
    copies: options.Copies = None,
    tradeoff: options.TradeOffRate = None,
    phase: options.Phase = None,
    surrogate: options.Surrogate = None,
    probe_samples: options.Probe = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    optimizer: options.OptimizerName = None,
    lr: options.Rate = None,
    momentum: options.Momentum = None,
    nesterov: options.Nesterov = None,
    weight_decay: options.Decay = None,
    schedule: options.Schedule = None,
    milestones: options.Milestones = None,
    span: options.Span = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    compare: options.Compare = None,
    device: options.Device = None,
    threads: options.Threads = None,
    out: options.Out = None,
    resume: options.Resume = None,
) -> None:
    """Begin a run or go on with one."""
    given = _given(locals())
    if resume is not None:
        _execute(*_reopen(resume, out, given, "grow"), "grow")
        return
    if data is None:
        raise RamifyError("no data set was given; try --data digits, or --resume RUN.")
    config = GrowConfig.resolve(given)
    dataset = prepare(config)
    folder = RunFolder.create(out or _free_folder(config.data), config.to_json())
    _execute(config, folder, dataset, "grow")


RETRAIN_HELP = (
    "Train the shape that a run arrived at from scratch, with fresh weights: what it is worth by "
    "itself. SOURCE is the folder of a finished run, whose data, model and settings are taken, or "
    "a network that ramify.save wrote, which needs --data and --model. "
    "Results go to SOURCE/retrain, or SOURCE-retrain for a saved network; --out names another "
    "folder."
)


@app.command(help=RETRAIN_HELP)
def retrain(  # noqa: PLR0913, PLR0917  (one argument an option)
    source: Annotated[
        Path | None,
        typer.Argument(help="A finished run folder, or a network saved by ramify.save."),
    ] = None,
    data: options.Data = None,
    model: options.Model = None,
    width: options.Width = None,
    epochs: Annotated[
        int | None,
        options.option(
            "--epochs", panel=options.TRAIN, text="Passes over the data (as many as the run made)."
        ),
    ] = None,
    batch_size: options.BatchSize = None,
    optimizer: options.OptimizerName = None,
    lr: options.Rate = None,
    momentum: options.Momentum = None,
    nesterov: options.Nesterov = None,
    weight_decay: options.Decay = None,
    schedule: options.Schedule = None,
    milestones: options.Milestones = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    device: options.Device = None,
    threads: options.Threads = None,
    out: Annotated[
        Path | None,
        options.option(
            "--out",
            panel=options.RUN,
            text="A new folder for the run (SOURCE/retrain; SOURCE-retrain for a saved network).",
        ),
    ] = None,
    resume: options.Resume = None,
) -> None:
    """Begin to train a shape from scratch, or go on with it."""
    given = _given(locals())
    if resume is not None:
        if source is not None:
            raise RamifyError("give either a network to retrain or --resume RUN, not both.")
        _execute(*_reopen(resume, out, given, "retrain"), "retrain")
        return
    if source is None:
        raise RamifyError("nothing to retrain was given; give a run folder or a saved network.")
    config, recipes = retraining.resolve(source, given)
    dataset = prepare(config)
    path = out or retraining.default_folder(source)
    folder = retraining.begin(config, recipes, dataset, path)
    _execute(config, folder, dataset, "retrain")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The settings among the options of a command, those left open left out."""
    given = {key: value for key, value in options.items() if value is not None and value != []}
    for name in ("out", "resume", "source"):
        given.pop(name, None)
    if "budget" in given:
        given["budget"] = _budgets(given["budget"])
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


def _reopen(
    path: Path, out: Path | None, given: dict[str, Any], command: str
) -> tuple[TrainConfig, RunFolder, Dataset]:
    """An earlier run with its settings; only the device may be another."""
    if out is not None:
        raise RamifyError("--out and --resume exclude each other; give --resume RUN alone.")
    folder = RunFolder.open(path)
    own = folder.command()
    if own != command:
        raise RamifyError(f"{path} is a run of ramify {own}; use ramify {own} --resume {path}.")
    device = {key: value for key, value in given.items() if key == "device"}
    plain = json.loads(json.dumps(given))
    folder.check({key: value for key, value in plain.items() if key != "device"})
    config = replace(CONFIGS[command].from_json(folder.config()), **device)
    return config, folder, prepare(config)


def _free_folder(data: str) -> Path:
    """``runs/NAME``, or the first ``runs/NAME-2``, ... that is not there yet."""
    name = Path(data).name
    numbered = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return next(path for path in numbered if not path.exists())


def _execute(config: TrainConfig, folder: RunFolder, dataset: Dataset, command: str) -> None:
    """Run the jobs with a display; whatever stops them, the folder is left ready to use."""
    console = Console()
    _say(console, f"run folder: {folder.path}")
    try:
        with Display(console, config, folder.events()) as display:
            run_jobs(config, folder, dataset, display.event, display.tick)
    except BaseException as stop:
        with suppress(RamifyError):
            save_unfinished(config, folder)
            write_report(folder.path)
        if isinstance(stop, KeyboardInterrupt):
            _say(console, f"stopped; to go on: ramify {command} --resume {folder.path}")
        raise
    write_summary(folder.path)
    if folder.path.name == RETRAINED and (folder.path.parent / CONFIG).exists():
        write_report(folder.path.parent)  # it shows what came of the retraining
    print_table(results_table(folder.events()), console)
    _say(console, f"to look at it, open {write_report(folder.path)} in a browser")


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def show(
    model: Annotated[
        str, typer.Argument(help="A built-in network, or package.module:build, as for grow.")
    ],
    data: Annotated[
        str | None, typer.Option(help="Build it for this data set, named as for grow.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option("--input", help="Or build it for inputs of this shape, such as 1,3,32,32."),
    ] = None,
    classes: Annotated[int, typer.Option(help="With --input: the number of classes.")] = 10,
    width: Annotated[int | None, typer.Option(help="Channels a layer.", show_default=False)] = None,
) -> None:
    """Print the channel groups of a network: what changes together when it grows."""
    if (data is None) == (shape is None):
        raise RamifyError("give the network's inputs by --data NAME or by --input 1,3,32,32.")
    if data is not None:
        dataset = load(data)
        inputs, classes = dataset.x_train[:1], len(dataset.classes)
    else:
        inputs = torch.zeros(_sizes(str(shape)))
    widths = {} if width is None else {"width": width}
    net = build(model, dataset_shape=tuple(inputs.shape[1:]), classes=classes, **widths)
    try_model(net, inputs)
    typer.echo(str(trace(net, inputs)))


def _sizes(text: str) -> list[int]:
    sizes = [int(part) for part in text.split(",") if part.strip().isdigit()]
    if len(sizes) != text.count(",") + 1 or len(sizes) < 2 or not all(sizes):
        raise RamifyError(f"--input is {text!r}; give whole numbers such as 1,3,32,32.")
    return sizes


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The run folder, finished or not.")],
) -> None:
    """Write the page of a run again: RUN/report.html."""
    typer.echo(write_report(run))
