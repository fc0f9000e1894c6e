"""The command line: ``ramify grow``, ``prune``, ``search``, ``retrain``, ``export``, ..."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from ramify.cli import cells as of_cells
from ramify.cli import options
from ramify.cli.base import app, execute, free_folder, given_settings, reopen
from ramify.cli.prune import prune
from ramify.commands import retrain as retraining
from ramify.commands.cell_training import holds_cells, prepare_cells, resolve_cells
from ramify.commands.config import GrowConfig
from ramify.commands.export import export_source
from ramify.commands.folder import RunFolder
from ramify.commands.jobs import prepare, try_model
from ramify.data import load
from ramify.errors import RamifyError
from ramify.models import build
from ramify.report import write_report
from ramify.tracing import trace

__all__ = ["app", "prune"]

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
    given = given_settings(locals())
    if resume is not None:
        execute(*reopen(resume, out, given, "grow"))
        return
    if data is None:
        raise RamifyError("no data set was given; try --data digits, or --resume RUN.")
    config = GrowConfig.resolve(given)
    dataset = prepare(config)
    folder = RunFolder.create(out or free_folder(config.data), config.to_json())
    execute(config, folder, dataset)


RETRAIN_HELP = (
    "Train the shape that a run arrived at from scratch, with fresh weights: what it is worth by "
    "itself. SOURCE is the folder of a finished run (of a search, the cells that it found), whose "
    "data, model and settings are taken, or "
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
    channels: of_cells.Channels = None,
    cells: of_cells.Cells = None,
    auxiliary: of_cells.Auxiliary = None,
    drop_path: of_cells.DropPath = None,
    cutout: of_cells.Cutout = None,
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
    given = given_settings(locals())
    if resume is not None:
        if source is not None:
            raise RamifyError("give either a network to retrain or --resume RUN, not both.")
        execute(*reopen(resume, out, given, "retrain"))
        return
    if source is None:
        raise RamifyError("nothing to retrain was given; give a run folder or a saved network.")
    path = out or retraining.default_folder(source)
    if holds_cells(source):
        found = resolve_cells(source, given)
        dataset = prepare_cells(found)
        execute(found, RunFolder.create(path, found.to_json()), dataset)
        return
    config, recipes = retraining.resolve(source, given)
    dataset = prepare(config)
    folder = retraining.begin(config, recipes, dataset, path)
    execute(config, folder, dataset)


EXPORT_HELP = (
    "Write what a run made as ONNX, and try it in onnxruntime where that is installed. SOURCE is "
    "the folder of a finished run (of a search, one that was retrained), or a network that "
    "ramify.save wrote, which needs --data and --model. The network of every seed is written, "
    "beside the saved one."
)


@app.command(help=EXPORT_HELP)
def export(
    source: Annotated[
        Path, typer.Argument(help="A finished run folder, or a network saved by ramify.save.")
    ],
    data: options.Data = None,
    model: options.Model = None,
    width: options.Width = None,
) -> None:
    """Write networks as ONNX."""
    for written in export_source(source, given_settings(locals())):
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
