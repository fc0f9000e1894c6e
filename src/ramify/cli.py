"""The command line: ``ramify grow``, ``ramify show``, ``ramify report``."""

import itertools
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import typer.core
from rich.console import Console

from ramify.data import Dataset, load
from ramify.errors import RamifyError
from ramify.models import build
from ramify.report import print_table, results_table, write_report, write_summary
from ramify.run.config import GrowConfig
from ramify.run.display import Display
from ramify.run.folder import RunFolder
from ramify.run.jobs import prepare, run_jobs, save_unfinished, try_model
from ramify.trace import trace

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


def _option(*names: str, panel: str, text: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


WHAT, GROW, TRAIN, RUN = "What", "How to grow", "How to train", "The run"
Data = Annotated[
    str | None,
    _option(
        "--data",
        panel=WHAT,
        text="digits (built in), mnist, fashion-mnist, cifar10, cifar100 (found under the folder "
        "that RAMIFY_DATA names), or a folder with train/CLASS/* and test/CLASS/* images.",
    ),
]
Model = Annotated[
    str | None,
    _option(
        "--model",
        panel=WHAT,
        text="A built-in network, or package.module:build, a function of yours that returns an "
        "nn.Module. Default: by data set.",
    ),
]
Width = Annotated[
    int | None,
    _option("--width", panel=WHAT, text="Channels a layer of the seed network, small on purpose."),
]
Rounds = Annotated[int | None, _option("--rounds", panel=GROW, text="How often to split channels.")]
Fraction = Annotated[
    float | None,
    _option("--fraction", panel=GROW, text="Share of the channels to split each round (0.35)."),
]
Most = Annotated[
    int | None,
    _option("--most", panel=GROW, text="Instead of --fraction: the most channels each round."),
]
Limit = Annotated[
    float | None,
    _option(
        "--threshold",
        panel=GROW,
        text="Instead of --fraction: split only channels whose splitting index is at most this "
        "(0 or less).",
    ),
]
Step = Annotated[
    float | None,
    _option("--step", panel=GROW, text="How far apart the two halves of a channel start."),
]
Surrogate = Annotated[
    float | None,
    _option(
        "--surrogate",
        panel=GROW,
        text="Sharpness of the softplus whose curvature stands in for that of ReLU and its like "
        "(3); 0 for the true curvature.",
    ),
]
Probe = Annotated[
    int | None,
    _option("--probe-samples", panel=GROW, text="Training samples that judge the splits."),
]
Epochs = Annotated[
    int | None,
    _option("--epochs", panel=TRAIN, text="Passes over the data before and after each split."),
]
BatchSize = Annotated[int | None, _option("--batch-size", panel=TRAIN, text="Samples a step.")]
OptimizerName = Annotated[
    str | None, _option("--optimizer", panel=TRAIN, text="sgd, adam or adamw (sgd).")
]
Rate = Annotated[
    float | None,
    _option("--lr", panel=TRAIN, text="Learning rate at the start of each round."),
]
Momentum = Annotated[float | None, _option("--momentum", panel=TRAIN, text="Of sgd (0.9).")]
Decay = Annotated[float | None, _option("--weight-decay", panel=TRAIN, text="On every parameter.")]
Schedule = Annotated[
    str | None,
    _option(
        "--schedule",
        panel=TRAIN,
        text="The learning rate in a round: cosine, steps or constant (cosine).",
    ),
]
Seed = Annotated[int | None, _option("--seed", panel=RUN, text="The first random seed (0).")]
Seeds = Annotated[int | None, _option("--seeds", panel=RUN, text="How many seeds to run (1).")]
Compare = Annotated[
    bool | None,
    _option(
        "--compare",
        panel=RUN,
        text="Also train the seed network, the grown shape from scratch and a uniformly wider "
        "network, for as many steps.",
    ),
]
Device = Annotated[str | None, _option("--device", panel=RUN, text="cpu, cuda, ... (cpu).")]
Threads = Annotated[
    int | None, _option("--threads", panel=RUN, text="CPU threads (1 for small nets, else all).")
]
Out = Annotated[
    Path | None,
    _option("--out", panel=RUN, text="A new folder for the run (runs/DATA, numbered)."),
]
Resume = Annotated[
    Path | None,
    _option(
        "--resume",
        panel=RUN,
        text="Go on with an interrupted run, to the same result; the options are the run's own.",
    ),
]


GROW_HELP = (
    "Train a small network and split its channels where that pays. "
    "`ramify grow --data digits` works as it stands: the run folder then holds the grown network, "
    "every number, and report.html to look at. Ctrl-C stops it, --resume goes on. "
    "What is left open gets a value that suits the data set; config.json keeps them all."
)


@app.command(help=GROW_HELP)
def grow(  # noqa: PLR0913, PLR0917  (one argument an option)
    data: Data = None,
    model: Model = None,
    width: Width = None,
    rounds: Rounds = None,
    fraction: Fraction = None,
    most: Most = None,
    threshold: Limit = None,
    step: Step = None,
    surrogate: Surrogate = None,
    probe_samples: Probe = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    optimizer: OptimizerName = None,
    lr: Rate = None,
    momentum: Momentum = None,
    weight_decay: Decay = None,
    schedule: Schedule = None,
    seed: Seed = None,
    seeds: Seeds = None,
    compare: Compare = None,
    device: Device = None,
    threads: Threads = None,
    out: Out = None,
    resume: Resume = None,
) -> None:
    """Begin a run or go on with one."""
    options = {key: value for key, value in locals().items() if value is not None}
    given = {key: value for key, value in options.items() if key not in ("out", "resume")}
    console = Console()
    if resume is not None:
        if out is not None:
            raise RamifyError("--out and --resume exclude each other; give --resume RUN alone.")
        folder, config = _reopen(resume, given)
        dataset = prepare(config)
    else:
        if data is None:
            raise RamifyError("no data set was given; try --data digits, or --resume RUN.")
        config = GrowConfig.resolve(given)
        dataset = prepare(config)
        folder = RunFolder.create(out or _free_folder(config.data), config.to_json())
    _execute(config, folder, dataset, console)


def _reopen(path: Path, given: dict[str, Any]) -> tuple[RunFolder, GrowConfig]:
    """The folder and settings of an earlier run; only the device may be another."""
    folder = RunFolder.open(path)
    device = {key: value for key, value in given.items() if key == "device"}
    folder.check({key: value for key, value in given.items() if key != "device"})
    return folder, replace(GrowConfig.from_json(folder.config()), **device)


def _free_folder(data: str) -> Path:
    """``runs/NAME``, or the first ``runs/NAME-2``, ... that is not there yet."""
    name = Path(data).name
    numbered = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return next(path for path in numbered if not path.exists())


def _execute(config: GrowConfig, folder: RunFolder, dataset: Dataset, console: Console) -> None:
    """Run the jobs with a display; whatever stops them, the folder is left ready to use."""
    _say(console, f"run folder: {folder.path}")
    try:
        with Display(console, config, folder.events()) as display:
            run_jobs(config, folder, dataset, display.event, display.tick)
    except BaseException as stop:
        with suppress(RamifyError):
            save_unfinished(config, folder)
            write_report(folder.path)
        if isinstance(stop, KeyboardInterrupt):
            _say(console, f"stopped; to go on: ramify grow --resume {folder.path}")
        raise
    write_summary(folder.path)
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
