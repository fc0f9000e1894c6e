"""``ramify prune``: widths; and the options that it alone has."""

from typing import Annotated

from ramify.cli import options
from ramify.cli.base import app, execute, free_folder, given_settings, reopen
from ramify.cli.options import option
from ramify.commands.folder import RunFolder
from ramify.commands.prune import SEARCHER_NAMES, PruneConfig, ordered, prepare_widths
from ramify.errors import RamifyError
from ramify.select import BUDGETS

SEARCH, CUT, TUNE = options.SEARCH, "How to cut", "How to fine-tune"
SearcherName = Annotated[
    str | None,
    option(
        "--searcher",
        panel=SEARCH,
        text=f"What scores the channels: {', '.join(SEARCHER_NAMES)} (rarts). All train for as "
        "many steps.",
    ),
]
SearcherOrder = Annotated[
    int | None, option("--searcher-order", panel=SEARCH, text="darts: 1 or 2 (1).")
]
Beta = Annotated[
    float | None,
    option("--beta", panel=SEARCH, text="rarts: how the two copies draw each other, β (0.01)."),
]
Gamma = Annotated[
    float | None,
    option(
        "--gamma",
        panel=SEARCH,
        text="Weight of the L1 penalty on gates, or for bn on norm scales, γ (1e-4); stronger, it "
        "learns how much to cut.",
    ),
]
ArchRate = Annotated[
    float | None, option("--arch-lr", panel=SEARCH, text="Learning rate of the gates (as --lr).")
]
PretrainEpochs = Annotated[
    int | None,
    option(
        "--pretrain-epochs",
        panel=SEARCH,
        text="Passes over the data that train the full network first (as --epochs); 0 searches "
        "from fresh weights.",
    ),
]
SearchEpochs = Annotated[
    int | None,
    option(
        "--search-epochs",
        panel=SEARCH,
        text="Passes over the data in the search, a step for two batches, one of each half (as "
        "--epochs).",
    ),
]
Groups = Annotated[
    str | None,
    option(
        "--groups",
        panel=CUT,
        text="Score and cut only groups of these names, as `ramify show` gives them, such as "
        "'*.mlp.fc1,*.q_proj:1' (all).",
    ),
]
Ratio = Annotated[
    float | None,
    option("--ratio", panel=CUT, text="Share of the channels to cut, over all layers (0.4)."),
]
PerLayer = Annotated[
    bool | None, option("--per-layer", panel=CUT, text="Cut that share of every layer.")
]
CutThreshold = Annotated[
    float | None,
    option(
        "--threshold",
        panel=CUT,
        text="Instead: cut the channels whose gate, or for bn whose norm scale, is at most this.",
    ),
]
CutBudget = Annotated[
    list[str] | None,
    option(
        "--budget",
        panel=CUT,
        text="Instead: cut until the network costs no more, such as params=1.2e6; several may be "
        f"given, of {', '.join(BUDGETS)} (in ms), each for one sample.",
    ),
]
CutMultiple = Annotated[
    int | None,
    option("--multiple-of", panel=CUT, text="Widths that change come to a multiple of this (1)."),
]
CutProbe = Annotated[
    int | None,
    option(
        "--probe-samples",
        panel=CUT,
        text="Training samples on which the cut is measured, and on which taylor scores.",
    ),
]
TuneEpochs = Annotated[
    int | None, option("--epochs", panel=TUNE, text="Passes over the data after the cut.")
]
FromScratch = Annotated[
    bool | None,
    option("--from-scratch", panel=TUNE, text="Begin with fresh weights in the cut shape."),
]
Distill = Annotated[
    bool | None, option("--distill", panel=TUNE, text="Learn from the full network's outputs too.")
]
Temperature = Annotated[
    float | None, option("--temperature", panel=TUNE, text="Of the distillation, T (4).")
]

PRUNE_HELP = (
    "Search for the widths of a network, cut it, and fine-tune what is left. Train the full "
    "network; learn gates on its channels beside its weights, on two halves of the data, or score "
    "the channels otherwise; cut the least needed; train again. "
    "`ramify prune --data digits` works as it stands: the run folder then holds the small network, "
    "every number, and report.html to look at. Ctrl-C stops it in any phase, --resume goes on."
)


@app.command(help=PRUNE_HELP)
def prune(  # noqa: PLR0913, PLR0917  (one argument an option)
    data: options.Data = None,
    model: options.Model = None,
    width: options.Width = None,
    searcher: SearcherName = None,
    searcher_order: SearcherOrder = None,
    lam: options.Lam = None,
    beta: Beta = None,
    gamma: Gamma = None,
    arch_lr: ArchRate = None,
    pretrain_epochs: PretrainEpochs = None,
    search_epochs: SearchEpochs = None,
    groups: Groups = None,
    ratio: Ratio = None,
    per_layer: PerLayer = None,
    threshold: CutThreshold = None,
    budget: CutBudget = None,
    multiple_of: CutMultiple = None,
    epochs: TuneEpochs = None,
    from_scratch: FromScratch = None,
    distill: Distill = None,
    temperature: Temperature = None,
    probe_samples: CutProbe = None,
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
    out: options.Out = None,
    resume: options.Resume = None,
) -> None:
    """Begin to shrink a network or go on with it."""
    given = given_settings(locals())
    if resume is not None:
        execute(*reopen(resume, out, ordered(given), "prune"))
        return
    if data is None:
        raise RamifyError("no data set was given; try --data digits, or --resume RUN.")
    config = PruneConfig.resolve(given)
    dataset = prepare_widths(config)
    folder = RunFolder.create(out or free_folder(config.data), config.to_json())
    execute(config, folder, dataset)
