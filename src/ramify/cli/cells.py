"""``ramify search``: cells; and the options that cells have."""

from typing import Annotated

from ramify.cli import options
from ramify.cli.base import app, execute, free_folder, given_settings, reopen
from ramify.cli.options import TRAIN, WHAT, option
from ramify.commands.cell_config import SEARCHERS, SELECTIONS, SPACES, SearchConfig
from ramify.commands.cells import prepare_search
from ramify.commands.folder import RunFolder
from ramify.commands.random_search import with_candidates
from ramify.errors import RamifyError

SEARCH = options.SEARCH
Space = Annotated[
    str | None,
    option(
        "--space",
        panel=WHAT,
        text=f"The search space: {', '.join(SPACES)}, or package.module:space, a "
        "ramify.cells.Space of yours (darts).",
    ),
]
SearcherName = Annotated[
    str | None,
    option(
        "--searcher",
        panel=SEARCH,
        text=f"What searches: {', '.join(SEARCHERS)} (rarts). random trains random architectures "
        "for the cost of a first-order search and takes the best.",
    ),
]
Channels = Annotated[
    int | None, option("--channels", panel=WHAT, text="Channels of the first cells.")
]
Cells = Annotated[
    int | None,
    option("--cells", panel=WHAT, text="How deep: of darts all cells, of nats those of a stage."),
]
Samples = Annotated[
    int | None,
    option("--samples", panel=SEARCH, text="Training images to search on, both halves (all)."),
]
SearchEpochs = Annotated[
    int | None,
    option("--epochs", panel=SEARCH, text="Passes over the halves; of random, of each candidate."),
]
WeightRate = Annotated[
    float | None,
    option("--lr", panel=TRAIN, text="Learning rate of the weights at the start (0.025)."),
]
WeightDecay = Annotated[float | None, option("--weight-decay", panel=TRAIN, text="Of the weights.")]
ArchRate = Annotated[
    float | None, option("--arch-lr", panel=SEARCH, text="Learning rate of the logits α.")
]
ArchDecay = Annotated[
    float | None, option("--arch-weight-decay", panel=SEARCH, text="Of the logits (1e-3).")
]
Beta = Annotated[
    float | None,
    option("--beta", panel=SEARCH, text="rarts: β, how the two copies of weights attract (0.1)."),
]
Gamma = Annotated[
    float | None,
    option(
        "--latency-weight",
        panel=SEARCH,
        text="γ, the loss that a millisecond of expected latency is worth (0).",
    ),
]
Table = Annotated[
    str | None,
    option(
        "--latency-table",
        panel=SEARCH,
        text="A file of latencies, as latency.json of another run; measured here without it.",
    ),
]
Warmup = Annotated[
    int | None,
    option("--warmup-epochs", panel=SEARCH, text="Epochs in which the logits rest first (0)."),
]
SkipStop = Annotated[
    int | None,
    option(
        "--skip-stop",
        panel=SEARCH,
        text="End the search before a cell has more skip connections than this.",
    ),
]
Partial = Annotated[
    int | None,
    option(
        "--partial-channels",
        panel=SEARCH,
        text="With N, operations take one channel in N, and the others skip them (1: all).",
    ),
]
Select = Annotated[
    str | None,
    option(
        "--select",
        panel=SEARCH,
        text=f"How the operations are chosen in the end: {' or '.join(SELECTIONS)} (mixing).",
    ),
]
Candidates = Annotated[
    int | None,
    option("--candidates", panel=SEARCH, text="random: how many to train, whatever the cost."),
]
Auxiliary = Annotated[
    float | None,
    option("--auxiliary", panel=TRAIN, text="Of cells: weight of the auxiliary head; 0 for none."),
]
DropPath = Annotated[
    float | None,
    option("--drop-path", panel=TRAIN, text="Of cells: how often an edge is dropped at the end."),
]
Cutout = Annotated[
    int | None,
    option("--cutout", panel=TRAIN, text="Of cells: side of the square cut out of images."),
]

SEARCH_HELP = (
    "Search for the cells of a network: which operations their edges have. "
    "`ramify search --data digits` works as it stands: the run folder then holds the architecture "
    "(genotype.json, genotype.txt), its cells drawn, every number, and report.html to look at. "
    "`ramify retrain RUN` trains what was found, `ramify export RUN` writes it as ONNX. "
    "Ctrl-C stops it, --resume goes on. What is left open gets a value that suits data set and "
    "space; config.json keeps them all."
)


@app.command(help=SEARCH_HELP)
def search(  # noqa: PLR0913, PLR0917  (one argument an option)
    data: options.Data = None,
    space: Space = None,
    channels: Channels = None,
    cells: Cells = None,
    searcher: SearcherName = None,
    epochs: SearchEpochs = None,
    samples: Samples = None,
    arch_lr: ArchRate = None,
    arch_weight_decay: ArchDecay = None,
    lam: options.Lam = None,
    beta: Beta = None,
    latency_weight: Gamma = None,
    latency_table: Table = None,
    warmup_epochs: Warmup = None,
    skip_stop: SkipStop = None,
    partial_channels: Partial = None,
    select: Select = None,
    candidates: Candidates = None,
    batch_size: options.BatchSize = None,
    lr: WeightRate = None,
    weight_decay: WeightDecay = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    device: options.Device = None,
    threads: options.Threads = None,
    out: options.Out = None,
    resume: options.Resume = None,
) -> None:
    """Begin a search or go on with one."""
    given = given_settings(locals())
    if resume is not None:
        execute(*reopen(resume, out, given, "search"))
        return
    if data is None:
        raise RamifyError("no data set was given; try --data digits, or --resume RUN.")
    config = SearchConfig.resolve(given)
    dataset = prepare_search(config)
    config = with_candidates(config, dataset)
    folder = RunFolder.create(out or free_folder(config.data), config.to_json())
    execute(config, folder, dataset)
