"""Training a derived network from scratch, as DARTS does: auxiliary head, drop-path, cutout.

``S`` is the number of samples of a batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ramify.cells import Network, Plan, Space
from ramify.commands.cell_config import (
    FIT_BY_SPACE,
    FIT_COMMON,
    PAPER_DATA,
    SMALL_FIT,
    CellTrainConfig,
    SearchConfig,
    space_named,
)
from ramify.commands.config import refuse_idle
from ramify.commands.folder import CONFIG, RunFolder
from ramify.commands.jobs import Job, Setup, Shuffled, load_data, model_path, try_classifier
from ramify.cost import model_cost
from ramify.data import Dataset, cutout
from ramify.errors import RamifyError
from ramify.store.model import save
from ramify.train.epoch import cross_entropy
from ramify.train.history import is_found
from ramify.train.loop import train


def holds_cells(source: Path) -> bool:
    """Whether this is the folder of a search for cells."""
    return (source / CONFIG).exists() and RunFolder.open(source).command() == SearchConfig.command


def resolve_cells(source: Path, given: Mapping[str, Any]) -> CellTrainConfig:
    """Find the architectures of a search, and fill in what the user left open.

    Data, device and threads are the search's. On CIFAR, widths, depth and training are those of
    the papers; elsewhere the network is as wide and as deep as the supernet was.

    Args:
        source: The folder of a finished ``ramify search``.
        given: Settings by name; those left open are absent.

    Returns:
        All settings.

    Raises:
        RamifyError: The search is not finished, or a setting is out of range.
    """
    folder = RunFolder.open(source)
    searched = SearchConfig.from_json(folder.config())
    for name in ("data", "model", "width"):
        if name in given:
            raise RamifyError(
                f"{name} is the search's own, {source}; leave --{name} out, or search there."
            )
    found = {e["seed"]: e["genotype"] for e in folder.events() if is_found(e)}
    seeds = list(range(searched.seed, searched.seed + searched.seeds))
    if set(seeds) - set(found):
        raise RamifyError(
            f"{source} is not finished; go on with it by ramify search --resume {source}, then "
            "retrain it."
        )
    if len(seeds) > 1 and {"seed", "seeds"} & set(given):
        raise RamifyError(
            f"{source} holds {len(seeds)} architectures, and each is trained with its own seed; "
            "leave --seed and --seeds out."
        )
    values = FIT_COMMON | FIT_BY_SPACE.get(searched.space, {})
    if searched.data not in PAPER_DATA:
        values |= SMALL_FIT | {"channels": searched.channels, "cells": searched.cells}
    if not _has_auxiliary(space_named(searched.space), values):
        values["auxiliary"] = 0.0
    shared = ("data", "space", "seed", "seeds", "device", "threads")
    values |= {name: getattr(searched, name) for name in shared}
    values |= {**given, "source": str(source), "genotypes": tuple(found[seed] for seed in seeds)}
    refuse_idle(dict(given), values)
    config = CellTrainConfig(**{f.name: values[f.name] for f in fields(CellTrainConfig)})
    config.check()
    return config


def _has_auxiliary(space: Space, values: Mapping[str, Any]) -> bool:
    """Whether the networks of a space can have an auxiliary head."""
    size = {"channels": values["channels"], "cells": values["cells"]}
    plan = Plan(**size, multiplier=space.multiplier, auxiliary=True)
    return space.stacked(plan).auxiliary is not None


def prepare_cells(config: CellTrainConfig) -> Dataset:
    """Load the data and try the networks, so that a mistake shows before a folder is made.

    Args:
        config: The settings of the run.

    Returns:
        The data.

    Raises:
        RamifyError: Device, data or space are not there, or a network does not run on the images,
            the auxiliary head included.
    """
    dataset = load_data(config)
    for seed in range(config.seed, config.seed + len(config.genotypes)):
        net = build_network(config, dataset, seed, auxiliary=config.auxiliary > 0)
        try_classifier(net, dataset)
        if config.auxiliary:
            with torch.no_grad():
                net.forward_with_auxiliary(dataset.x_train[:2])
    return dataset


def build_network(
    config: CellTrainConfig, dataset: Dataset, seed: int, *, auxiliary: bool = False
) -> Network:
    """The network that a seed trains, on the CPU; without the auxiliary head it is what is kept."""
    return space_named(config.space).network(
        config.genotype(seed),
        channels=config.channels,
        cells=config.cells,
        classes=len(dataset.classes),
        in_channels=dataset.shape[0],
        auxiliary=auxiliary,
    )


def run_cells(job: Job, setup: Setup) -> None:
    """Train one derived network to its end, and keep it without its auxiliary head.

    Args:
        job: The job.
        setup: What the jobs of the run share.

    Raises:
        RamifyError: From the folder, the space or the training.
    """
    config = setup.config
    assert isinstance(config, CellTrainConfig)
    torch.manual_seed(job.seed)
    net = build_network(config, setup.dataset, job.seed, auxiliary=config.auxiliary > 0)
    net = net.to(config.device)
    history = train(
        net,
        setup.inputs(),
        partial(auxiliary_loss, config.auxiliary),
        Cut(Shuffled(setup.dataset, config, job.seed, setup.ticked), net, config),
        training=config.training(),
        **setup.training(job),
    ).history
    kept = build_network(config, setup.dataset, job.seed)
    kept.load_state_dict({name: net.state_dict()[name] for name in kept.state_dict()})
    save(kept, model_path(config, setup.folder, job.seed))
    cost = model_cost(kept, setup.dataset.x_train[:1])
    setup.finish(job, history, {"params": cost.params, "macs": cost.macs})


def auxiliary_loss(weight: float, net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy, in training with that of the auxiliary head times its weight: shape (S,)."""
    if not (net.training and weight):
        return cross_entropy(net, batch)
    assert isinstance(net, Network)
    inputs, labels = batch
    losses = [
        F.cross_entropy(scores, labels, reduction="none")
        for scores in net.forward_with_auxiliary(inputs)
    ]
    return losses[0] + weight * losses[1]


@dataclass(frozen=True)
class Cut:
    """The training batches of an epoch with a square cut out; drop-path grows with the epochs.

    Attributes:
        shuffled: The batches before.
        net: Its drop-path rate is set when an epoch begins, to what the epoch's number says.
        config: How much of both.
    """

    shuffled: Shuffled
    net: Network
    config: CellTrainConfig

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.shuffled)

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch, on the device."""
        self.net.drop_path.rate = self.config.drop_path * epoch / self.config.epochs
        for number, (inputs, labels) in enumerate(self.shuffled(epoch)):
            side = self.config.cutout
            seeds = (self.shuffled.seed, epoch, number)
            yield (cutout(inputs, side, seeds) if side else inputs), labels
