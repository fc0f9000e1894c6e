"""Shrinking a network by a search for its widths: what ``ramify prune`` does (Algorithm 3)."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ramify.commands.jobs import RESTORE, Job, Setup, Shuffled, build_seed, prepare, probe
from ramify.commands.prune_settings import PruneSettings
from ramify.data import Dataset
from ramify.probe.loss import Loss
from ramify.relax import Pairs, distilled, halves
from ramify.store.files import read_json
from ramify.store.model import load, save
from ramify.train.epoch import cross_entropy
from ramify.train.fresh_networks import scratch
from ramify.train.loop import train
from ramify.train.shrink import check_widths, cut, search_widths


def prepare_widths(settings: PruneSettings) -> Dataset:
    """Load the data, and try the search and the cut on the untrained network, before any work."""
    dataset = prepare(settings)
    try_widths(settings, dataset)
    return dataset


def try_widths(settings: PruneSettings, dataset: Dataset) -> None:
    """Try the search and the cut on the untrained network; errors as :func:`prepare_widths`."""
    model = build_seed(settings, dataset)
    inputs = dataset.x_train[:1]
    check_widths(model, inputs, settings.search(0), settings.selection(), settings.budget)


def run_phase(job: Job, setup: Setup) -> None:
    """Run one phase of a seed to its end: the full network, the search with the cut, the tuning."""
    settings = setup.settings
    assert isinstance(settings, PruneSettings)
    torch.manual_seed(job.seed)
    if job.arm == "scored":
        _search(settings, job, setup)
        return
    if job.arm == "baseline":
        model, path = setup.build(), _kept(setup, "baseline", job.seed)
        epochs, loss = settings.pretrain_epochs, cast(Loss, cross_entropy)
    else:
        model, path = _cut_network(settings, job, setup), setup.folder.of_seed("model", job.seed)
        epochs, loss = settings.epochs, _tuning_loss(settings, job, setup)
    history = train(
        model.to(settings.device),
        setup.inputs(),
        loss,
        Shuffled(setup.dataset, settings, job.seed, setup.ticked),
        training=replace(settings.training(), epochs=epochs),
        **setup.training(job),
    ).history
    save(model, path)
    setup.finish(job, history)


def _search(settings: PruneSettings, job: Job, setup: Setup) -> None:
    """Search, cut, and keep the cut network."""
    kept = _kept(setup, "baseline", job.seed)
    model = load(kept, setup.build) if settings.pretrain_epochs else setup.build()
    judged = probe(setup, settings.probe_samples, job.seed) or []
    scored = search_widths(
        model.to(settings.device),
        setup.inputs(),
        cross_entropy,
        _pairs(setup, job.seed),
        search=settings.search(job.seed),
        training=settings.training(),
        probe=judged,
        **setup.training(job),
    )
    _, event = cut(
        scored,
        cross_entropy,
        judged,
        rule=settings.selection(),
        budget=settings.budget,
        evaluate=setup.measures,
    )
    save(model, _kept(setup, "cut", job.seed))
    setup.record(event | job.tags() | {"t": scored.history[-1]["t"]})
    setup.finish(job, scored.history)


def _cut_network(settings: PruneSettings, job: Job, setup: Setup) -> nn.Module:
    """What the cut has left, with its weights or with fresh ones."""
    path = _kept(setup, "cut", job.seed)
    if settings.from_scratch:
        return scratch(setup.build, read_json(path.with_name(f"{path.name}.json"), RESTORE))
    return load(path, setup.build)


def _tuning_loss(settings: PruneSettings, job: Job, setup: Setup) -> Loss:
    if settings.temperature is None:
        return cross_entropy
    teacher = load(_kept(setup, "baseline", job.seed), setup.build).to(settings.device)
    return distilled(cross_entropy, teacher, settings.temperature)


def _kept(setup: Setup, arm: str, seed: int) -> Path:
    """Where a network is kept that the next phase begins with."""
    return setup.folder.path / f"{arm}-{seed}"


def _pairs(setup: Setup, seed: int) -> Pairs:
    """Batches of two halves of the training data, each in an order of its own."""
    data, settings = setup.dataset, setup.settings

    def half(index: torch.Tensor, number: int) -> Shuffled:
        part = replace(data, x_train=data.x_train[index], y_train=data.y_train[index])
        ticked = setup.ticked if number == 0 else lambda fraction: None
        return Shuffled(part, settings, 2 * seed + number, ticked)

    each = halves(len(data.x_train), seed)
    return Pairs(*(half(index, number) for number, index in enumerate(each)))
