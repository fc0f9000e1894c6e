"""The work of ``ramify search``: gradient-based search for cells, and code shared by searches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from ramify import distributed
from ramify.cells import Genotype, NatsTables, Network, Supernet
from ramify.cells.nats_tables import DATASETS
from ramify.cells.operation_latency import LatencyTable, measure_latencies
from ramify.cells.perturb import derive_by_perturbation
from ramify.commands.jobs import (
    EVALUATION_BATCH,
    Job,
    OrderedBatches,
    Setup,
    Shuffled,
    load_data,
    try_classifier,
)
from ramify.commands.run_folder import RunFolder
from ramify.commands.search_settings import SearchSettings, space_named
from ramify.cost import model_cost
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.latency import measure
from ramify.relax import ExpectedCost, Pairs, Searcher, halves
from ramify.relax.registry import searcher_named
from ramify.store.files import read_json, write_bytes, write_json
from ramify.tracing.recorder import evaluating
from ramify.train.epoch import cross_entropy
from ramify.train.history import Event
from ramify.train.search import search

MOMENTUM, CLIP, LEAST = 0.9, 5.0, 0.04  # of SGD; gradient clipping; last over first learning rate
JUDGED = 1024  # most samples of D_p that judge a perturbation
BETAS = (0.5, 0.999)  # of Adam, which trains the logits
LATENCIES, SPACE = "latency.json", "space.json"


def prepare_search(settings: SearchSettings) -> Dataset:
    """Load the data and try the supernet, so that mistakes appear before a folder is created."""
    dataset = load_data(settings)
    if len(dataset.shape) != 3:
        raise RamifyError(
            f"{settings.data} holds samples of shape {dataset.shape}, and cells are for images; "
            "give a data set of images."
        )
    count = len(dataset.x_train)
    if settings.samples is not None and settings.samples > count:
        raise RamifyError(
            f"samples is {settings.samples}, and {settings.data} has {count} training images; give "
            "that many or fewer."
        )
    net = build_supernet(settings, dataset)
    try_classifier(net, dataset)
    if settings.latency_table is not None:
        _read_table(Path(settings.latency_table)).costs(net, dataset.x_train[:1])
    return dataset


def build_supernet(settings: SearchSettings, dataset: Dataset) -> Supernet:
    """The supernet of a search, on the CPU."""
    return space_named(settings.space).supernet(
        channels=settings.channels,
        cells=settings.cells,
        classes=len(dataset.classes),
        in_channels=dataset.shape[0],
        partial=settings.partial_channels or 1,
    )


def describe_space(settings: SearchSettings, folder: RunFolder) -> None:
    """Write a description of the space, so that a report page does not need its code."""
    space = space_named(settings.space)
    description = {
        "name": space.name,
        "inputs": space.inputs,
        "states": space.states,
        "concat": space.concat,
        "kinds": list(space.kinds),
        "edges": [list(edge) for edge in space.edges],
        "operations": list(space.operations),
    }
    distributed.from_rank_zero(lambda: write_json(folder.path / SPACE, description))


def divided(settings: SearchSettings, dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """D_a and D_p of a seed: halves of the samples to search on.

    Args:
        settings: The settings, which define the number of samples.
        dataset: The data from which they are drawn.
        seed: Seed of the draw.

    Returns:
        Two data sets that share no training sample.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(dataset.x_train), generator=generator)[: settings.samples]
    return tuple(  # type: ignore[return-value]
        replace(dataset, x_train=dataset.x_train[index], y_train=dataset.y_train[index])
        for index in (drawn[half] for half in halves(len(drawn), seed))
    )


# ---------------------------------------------------------------------------- by gradients


def run_search(job: Job, setup: Setup) -> None:
    """Run one gradient-based search to its end, and derive the architecture."""
    settings = setup.settings
    assert isinstance(settings, SearchSettings)
    describe_space(settings, setup.folder)
    torch.manual_seed(job.seed)
    net = build_supernet(settings, setup.dataset).to(settings.device)
    data_a, data_p = divided(settings, setup.dataset, job.seed)
    shuffled = Shuffled(data_a, settings, job.seed, setup.ticked)
    pairs = Pairs(shuffled, Shuffled(data_p, settings, job.seed, lambda share: None))
    searcher = make_searcher(settings, net, len(pairs), penalty_of(settings, net, setup))
    history = search(
        searcher,
        pairs,
        epochs=settings.epochs,
        log=setup.record,
        checkpoint=setup.folder.checkpoint,
        evaluate=_seen,
        after_epoch=lambda event: too_many_skips(settings, setup.events(job)),
        tags=job.tags(),
    )
    text = kept_genotype(settings, history)
    if settings.select == "perturbation":
        text = derive_by_perturbation(net, _judged_on(net, data_p, settings)).text
    finish_search(job, setup, text, history[-1])


def _judged_on(
    net: Supernet, data: Dataset, settings: SearchSettings
) -> Callable[[Mapping[str, Tensor]], float]:
    """The mean loss on samples of D_p for given mixing weights, in evaluation mode."""
    labels = data.y_train[:JUDGED]
    parts = list(OrderedBatches(data.x_train[:JUDGED], labels, EVALUATION_BATCH, settings.device))

    def loss(mixing: Mapping[str, Tensor]) -> float:
        with evaluating(net):
            losses = [F.cross_entropy(net(x, mixing), y, reduction="sum") for x, y in parts]
            return float(sum(losses)) / len(labels)

    return loss


def _seen(net: nn.Module) -> dict[str, Any]:
    """The entries of an epoch's event about the logits."""
    assert isinstance(net, Supernet)
    mixing = {kind: weights.detach().cpu().tolist() for kind, weights in net.mixing().items()}
    return {"mixing": mixing, "genotype": net.space.derive(net).text}


def too_many_skips(settings: SearchSettings, epochs: Sequence[Event]) -> bool:
    """Whether a search has gone from few skip connections to more than the allowed number.

    At the start the logits may select many skip connections by chance; that does not end a search.

    Args:
        settings: The settings, which define how many are allowed in a cell.
        epochs: The events of its epochs so far.

    Returns:
        Whether to end the search.
    """
    if settings.skip_stop is None:
        return False
    counts = [_skips(settings, event) for event in epochs]
    return counts[-1] > settings.skip_stop and min(counts) <= settings.skip_stop


def kept_genotype(settings: SearchSettings, epochs: Sequence[Event]) -> str:
    """The result of a search.

    Args:
        settings: The settings, which define how many skip connections a cell may have.
        epochs: The events of its epochs.

    Returns:
        The architecture of the last epoch with no more than that many; if there is none, that of
        the last epoch with the fewest.
    """
    if settings.skip_stop is None:
        return str(epochs[-1]["genotype"])
    counts = [max(_skips(settings, event), settings.skip_stop) for event in epochs]
    last = max(number for number, count in enumerate(counts) if count == min(counts))
    return str(epochs[last]["genotype"])


def _skips(settings: SearchSettings, event: Event) -> int:
    """The number of skip connections in the cell with the most."""
    cells = space_named(settings.space).parse(event["genotype"]).cells
    return max(
        sum(name == "skip_connect" for edges in states for name, _ in edges) for _, states in cells
    )


def penalty_of(settings: SearchSettings, net: Supernet, setup: Setup) -> ExpectedCost | None:
    """The expected latency (RARTS thesis, section 3.1.4), from a table kept in the run folder."""
    if not settings.latency_weight:
        return None
    inputs = setup.inputs()
    path = setup.folder.path / LATENCIES

    def write() -> None:
        if settings.latency_table is not None:
            table = _read_table(Path(settings.latency_table))
        else:
            table = measure_latencies(net, inputs)
        write_json(path, table.to_json())

    distributed.from_rank_zero(lambda: None if path.exists() else write())
    return ExpectedCost(_read_table(path).costs(net, inputs))


def _read_table(path: Path) -> LatencyTable:
    return LatencyTable.from_json(read_json(path, "give the file of a latency table."))


def make_searcher(
    settings: SearchSettings, net: Supernet, steps: int, penalty: ExpectedCost | None = None
) -> Searcher:
    """The searcher that the settings name, over a supernet."""
    total, warmup = settings.epochs * steps, (settings.warmup_epochs or 0) * steps

    def cosine(optimizer: Optimizer) -> LRScheduler:
        return CosineAnnealingLR(optimizer, total, eta_min=LEAST * settings.lr)

    def resting(optimizer: Optimizer) -> LRScheduler:
        return LambdaLR(optimizer, lambda step: float(step >= warmup))

    shared: dict[str, Any] = {
        "arch": net.arch_parameters(),
        "loss": cross_entropy,
        "weight_optimizer": partial(
            SGD, lr=settings.lr, momentum=MOMENTUM, weight_decay=settings.weight_decay
        ),
        "arch_optimizer": partial(
            Adam,
            lr=settings.arch_lr or 0.0,
            betas=BETAS,
            weight_decay=settings.arch_weight_decay or 0.0,
        ),
        "gamma": settings.latency_weight or 0.0,
        "penalty": penalty,
        "schedules": {"weights": cosine, "arch": resting},
        "clip": CLIP,
    }
    make = searcher_named(settings.searcher, settings.lam or 0.0, settings.beta or 0.0)
    return make(net, **shared)


# ---------------------------------------------------------------------------- what is found


def build_derived(settings: SearchSettings, dataset: Dataset, genotype: str) -> Network:
    """The network of an architecture, with the width and depth of the supernet."""
    return space_named(settings.space).network(
        genotype,
        channels=settings.channels,
        cells=settings.cells,
        classes=len(dataset.classes),
        in_channels=dataset.shape[0],
    )


def finish_search(job: Job, setup: Setup, genotype: str, last: Event) -> None:
    """Save the architecture that a search found, and write its result (without accuracy)."""
    settings = setup.settings
    assert isinstance(settings, SearchSettings)
    space = space_named(settings.space)
    found = space.parse(genotype)
    for suffix, text in ((".json", found.to_json()), (".txt", found.text + "\n")):
        path = setup.folder.of_seed("genotype", job.seed, suffix)
        distributed.from_rank_zero(partial(write_bytes, path, text.encode()))
    net, inputs = (
        build_derived(settings, setup.dataset, genotype).to(settings.device),
        setup.inputs(),
    )
    # Measurements are unreliable while other processes run.
    cost, time = model_cost(net, inputs), distributed.from_rank_zero(lambda: measure(net, inputs))
    measures = {
        "genotype": found.text,
        "params": cost.params,
        "macs": cost.macs,
        "skips": found.share("skip_connect"),
        "latency": time.median,
        "steps": last["step"],
        "seconds": last["t"],
    }
    known = benchmark(settings, found)
    measures |= {"benchmark": known} if known else {}
    setup.end(job, {"t": last["t"]} | measures)


def benchmark(settings: SearchSettings, genotype: Genotype) -> dict[str, float]:
    """The NATS-Bench entries of an architecture."""
    if settings.space != "nats" or settings.data not in DATASETS:
        return {}
    try:
        tables = NatsTables()
    except RamifyError:  # the tables are optional
        return {}
    return {
        "NATS-Bench, %": tables.accuracy(genotype, settings.data),
        "percentile": tables.percentile(genotype, settings.data),
    }
