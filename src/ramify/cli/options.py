"""The options of the commands, each said once: its name, its type, its help."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ramify.commands.method_settings import METHODS
from ramify.select import BUDGETS


def option(*names: str, panel: str, text: str) -> Any:
    """An option of a command, shown in a panel of its help; its text says the default."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False)


WHAT, GROW, TRAIN, RUN = "What", "How to grow", "How to train", "The run"
SEARCH = "How to search"
Data = Annotated[
    str | None,
    option(
        "--data",
        panel=WHAT,
        text="digits (built in); mnist, fashion-mnist, cifar10, cifar100, caltech20, or NAME of "
        "NAME.npz (found under the folder that RAMIFY_DATA names); package.module:object, an "
        "object of yours; or a folder with train/CLASS/* and test/CLASS/* images.",
    ),
]
Model = Annotated[
    str | None,
    option(
        "--model",
        panel=WHAT,
        text="A built-in network, or package.module:build, a function of yours that returns an "
        "nn.Module. Default: by data set.",
    ),
]
Width = Annotated[
    int | None,
    option("--width", panel=WHAT, text="Channels a layer of the network that is begun with."),
]
MethodName = Annotated[
    str | None,
    option(
        "--method",
        panel=GROW,
        text=f"What proposes the changes: {', '.join(METHODS)} (s2d).",
    ),
]
Rounds = Annotated[
    int | None,
    option(
        "--rounds",
        panel=GROW,
        text="How often to change the shape at most (with --budget 20, unless --span is run).",
    ),
]
Budget = Annotated[
    list[str] | None,
    option(
        "--budget",
        panel=GROW,
        text="The most that the network may cost, such as params=1.2e6; several may be given, of "
        f"{', '.join(BUDGETS)} (in ms), each for one sample.",
    ),
]
MultipleOf = Annotated[
    int | None,
    option(
        "--multiple-of",
        panel=GROW,
        text="Widths that change come to the nearest multiple of this that pays, such as 8 (1).",
    ),
]
Fraction = Annotated[
    float | None,
    option(
        "--fraction",
        panel=GROW,
        text="Share of the channels to change each round (0.35; gauss-newton: of each layer, 0.3).",
    ),
]
Most = Annotated[
    int | None,
    option("--most", panel=GROW, text="Instead of --fraction: the most channels each round."),
]
Signed = Annotated[
    float | None,
    option(
        "--signed",
        panel=GROW,
        text="s3d: the largest sum of the copies' absolute weights, c (1.3).",
    ),
]
Copies = Annotated[
    str | None,
    option(
        "--copies", panel=GROW, text="s3d: numbers of copies to choose from, such as 2,3,4 (2)."
    ),
]
TradeOffRate = Annotated[
    float | None,
    option(
        "--tradeoff",
        panel=GROW,
        text="gauss-newton: the loss that a parameter is worth, λ_p (3e-7).",
    ),
]
Phase = Annotated[
    int | None,
    option(
        "--phase",
        panel=GROW,
        text="gauss-newton: passes over the data that learn the morphisms (as --epochs).",
    ),
]
Limit = Annotated[
    float | None,
    option(
        "--threshold",
        panel=GROW,
        text="s2d, s3d: instead of --fraction, split only channels whose splitting index is at "
        "most this (0 or less).",
    ),
]
Step = Annotated[
    float | None,
    option("--step", panel=GROW, text="How far the copies of a channel start from it."),
]
Surrogate = Annotated[
    float | None,
    option(
        "--surrogate",
        panel=GROW,
        text="Sharpness of the softplus whose curvature stands in for that of ReLU and its like "
        "(3); 0 for the true curvature.",
    ),
]
Probe = Annotated[
    int | None,
    option("--probe-samples", panel=GROW, text="Training samples that judge the changes."),
]
Epochs = Annotated[
    int | None,
    option("--epochs", panel=TRAIN, text="Passes over the data before and after each split."),
]
BatchSize = Annotated[int | None, option("--batch-size", panel=TRAIN, text="Samples a step.")]
OptimizerName = Annotated[
    str | None, option("--optimizer", panel=TRAIN, text="sgd, adam or adamw (sgd).")
]
Rate = Annotated[
    float | None,
    option("--lr", panel=TRAIN, text="Learning rate at the start of the schedule."),
]
Momentum = Annotated[float | None, option("--momentum", panel=TRAIN, text="Of sgd (0.9).")]
Nesterov = Annotated[
    bool | None, option("--nesterov", panel=TRAIN, text="Nesterov's form of the momentum.")
]
Decay = Annotated[float | None, option("--weight-decay", panel=TRAIN, text="On every parameter.")]
Schedule = Annotated[
    str | None,
    option(
        "--schedule",
        panel=TRAIN,
        text="Of the learning rate: cosine, steps (tenfold down at each milestone) or constant "
        "(cosine).",
    ),
]
Milestones = Annotated[
    str | None,
    option(
        "--milestones",
        panel=TRAIN,
        text="Where the schedule steps goes down, as shares of it (0.5,0.75).",
    ),
]
Span = Annotated[
    str | None,
    option(
        "--span",
        panel=TRAIN,
        text="Whether the schedule begins again each round, or goes over the whole run: round or "
        "run (round).",
    ),
]
Seed = Annotated[int | None, option("--seed", panel=RUN, text="The first random seed (0).")]
Seeds = Annotated[int | None, option("--seeds", panel=RUN, text="How many seeds to run (1).")]
Compare = Annotated[
    bool | None,
    option(
        "--compare",
        panel=RUN,
        text="Also train the seed network, the grown shape from scratch and a uniformly scaled "
        "network, for as many steps.",
    ),
]
Device = Annotated[str | None, option("--device", panel=RUN, text="cpu, cuda, ... (cpu).")]
Threads = Annotated[
    int | None, option("--threads", panel=RUN, text="CPU threads (1 for small nets, else all).")
]
Out = Annotated[
    Path | None,
    option("--out", panel=RUN, text="A new folder for the run (runs/DATA, numbered)."),
]
Resume = Annotated[
    Path | None,
    option(
        "--resume",
        panel=RUN,
        text="Go on with an interrupted run, to the same result; the options are the run's own.",
    ),
]
Lam = Annotated[
    float | None,
    option("--lam", panel=SEARCH, text="rarts, milenas: weight of the other half's loss, λ (1)."),
]
