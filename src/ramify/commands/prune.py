"""Making a network smaller: what ``ramify prune`` does, phase by phase."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ramify.commands.jobs import (
    PROBE_BATCH,
    RESTORE,
    Job,
    Setup,
    Shuffled,
    build_seed,
    prepare,
    probe,
)
from ramify.commands.prune_settings import PruneSettings
from ramify.data import Dataset
from ramify.methods import Method
from ramify.relax import Pairs, halves
from ramify.store.files import read_json, write_json
from ramify.store.model import load, save
from ramify.train.cut_rounds import Cutting
from ramify.train.epoch import cross_entropy
from ramify.train.loop import train
from ramify.train.scored import Scores, search_widths
from ramify.train.shrink import TEMPERATURE, check_shrink, shrink


def prepare_widths(settings: PruneSettings) -> Dataset:
    """Load the data, and try the search and the cut on the untrained network, before any work."""
    dataset = prepare(settings)
    try_widths(settings, dataset)
    return dataset


def try_widths(settings: PruneSettings, dataset: Dataset) -> None:
    """Try the search and the cut on the untrained network; errors as :func:`prepare_widths`."""
    model, inputs = build_seed(settings, dataset), dataset.x_train[:1]
    budget = settings.budget_of(model, inputs)
    check_shrink(model, inputs, settings.search(0), Cutting(**settings.cutting(budget)))


def run_phase(job: Job, setup: Setup) -> None:
    """Run one phase of a seed to its end: the full network, the search, the cut with the tuning."""
    settings = setup.settings
    assert isinstance(settings, PruneSettings)
    torch.manual_seed(job.seed)
    if job.arm == "baseline":
        _train_full(settings, job, setup)
    elif job.arm == "scored":
        _search(settings, job, setup)
    else:
        _shrink(settings, job, setup)


def _train_full(settings: PruneSettings, job: Job, setup: Setup) -> None:
    """Train the full network."""
    model = setup.build().to(settings.device)
    history = train(
        model,
        setup.inputs(),
        cross_entropy,
        setup.batches(job),
        training=replace(settings.training(), epochs=settings.pretrain_epochs),
        **setup.training(job),
    ).history
    save(model, _kept(setup, "baseline", job.seed))
    setup.finish(job, history)


def _search(settings: PruneSettings, job: Job, setup: Setup) -> None:
    """Train while the channels are scored; keep the network and the scores."""
    search = settings.search(job.seed)
    assert search is not None
    model = _full(settings, job, setup)
    scored = search_widths(
        model.to(settings.device),
        setup.inputs(),
        cross_entropy,
        _pairs(setup, job.seed),
        search=search,
        training=settings.training(),
        probe=probe(setup, settings.probe_samples, job.seed) or [],
        **setup.training(job),
    )
    save(model, _kept(setup, "scored", job.seed))
    write_json(_scores(setup, job.seed), Scores.of(scored.proposals).rows)
    setup.finish(job, scored.history)


def _shrink(settings: PruneSettings, job: Job, setup: Setup) -> None:
    """Cut the network that was trained, or scored in training, and tune it."""
    full = _full(settings, job, setup).to(settings.device)
    method: Method | None
    if settings.search(job.seed) is None:
        model, method = _full(settings, job, setup), settings.method(job.seed)
    else:
        model = load(_kept(setup, "scored", job.seed), setup.build)
        method = Scores(read_json(_scores(setup, job.seed), RESTORE))
    sample, held = _samples(settings, setup, job.seed)
    cutting = settings.cutting(settings.budget_of(full, setup.inputs()))
    done = shrink(
        model.to(settings.device),
        setup.inputs(),
        cross_entropy,
        setup.batches(job),
        **cutting | {"method": method},
        calibration=sample,
        held=held,
        training=settings.tuning(),
        teacher=full if settings.distill else None,
        temperature=settings.temperature or TEMPERATURE,
        fresh=setup.build if settings.from_scratch else None,
        **setup.training(job),
    )
    save(model, setup.folder.of_seed("model", job.seed))
    setup.finish(job, done.history)


def _samples(settings: PruneSettings, setup: Setup, seed: int) -> tuple[list[Any], list[Any]]:
    """Training samples that choose the channels and refit the rest, and as many that measure."""
    number = settings.probe_samples
    drawn = probe(setup, 2 * number, seed) or []
    inputs, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    cut = min(number, len(inputs) // 2)
    one, two = (
        list(zip(inputs[part].split(PROBE_BATCH), labels[part].split(PROBE_BATCH), strict=True))
        for part in (slice(cut), slice(cut, None))
    )
    return one, two


def _full(settings: PruneSettings, job: Job, setup: Setup) -> nn.Module:
    """The full network, trained or fresh."""
    kept = _kept(setup, "baseline", job.seed)
    return load(kept, setup.build) if settings.pretrain_epochs else setup.build()


def _kept(setup: Setup, arm: str, seed: int) -> Path:
    """Where a network is kept that the next phase begins with."""
    return setup.folder.path / f"{arm}-{seed}"


def _scores(setup: Setup, seed: int) -> Path:
    """Where the scores of the search are kept."""
    return setup.folder.path / f"scores-{seed}.json"


def _pairs(setup: Setup, seed: int) -> Pairs:
    """Batches of two halves of the training data, each in an order of its own."""
    data, settings = setup.dataset, setup.settings

    def half(index: torch.Tensor, number: int) -> Shuffled:
        part = replace(data, x_train=data.x_train[index], y_train=data.y_train[index])
        ticked = setup.ticked if number == 0 else lambda fraction: None
        return Shuffled(part, settings, 2 * seed + number, ticked)

    each = halves(len(data.x_train), seed)
    return Pairs(*(half(index, number) for number, index in enumerate(each)))
