"""The phases of ``ramify prune``, which makes a network smaller."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.commands.jobs import (
    RESTORE,
    Job,
    OrderedBatches,
    Setup,
    Shuffled,
    build_seed,
    prepare,
    probe,
    try_network,
)
from ramify.commands.prune_accept import Acceptance, Batches, checked_allowance, held_out
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.weights import trained_network
from ramify.data import Dataset
from ramify.methods import Method
from ramify.relax import Pairs, halves
from ramify.store.files import read_json, write_json
from ramify.store.model import load
from ramify.train.cut_rounds import Cutting
from ramify.train.loop import train
from ramify.train.scored import Scores, search_widths
from ramify.train.shrink import TEMPERATURE, check_shrink, shrink

CUT_BATCH = 128
"""The batch size of a cut."""


def prepare_widths(settings: PruneSettings) -> Dataset:
    """Load the data, and check the search and the cut on the untrained network."""
    dataset = prepare(settings)
    try_widths(settings, dataset)
    return dataset


def try_widths(settings: PruneSettings, dataset: Dataset) -> None:
    """Check the search and the cut on the full network; errors as in :func:`prepare_widths`."""
    if settings.accept:
        checked_allowance(settings.accept, dataset.task.metric)
        held_out(dataset, settings.seed)
    model, inputs = _untrained(settings, dataset), dataset.x_train[:1]
    if settings.weights:
        try_network(model, dataset)
    budget = settings.budget_of(model, inputs)
    accept = (lambda model: True) if settings.accept else None
    check_shrink(model, inputs, settings.search(0), Cutting(**settings.cutting(budget, accept)))


def run_phase(job: Job, setup: Setup) -> None:
    """Run one phase of a seed: training the full network, the search, or cut and fine-tuning."""
    settings = setup.settings
    assert isinstance(settings, PruneSettings)
    torch.manual_seed(job.seed)
    judges: Batches = []
    if settings.accept:  # the samples that judge the cuts are not used for training
        rest, apart = held_out(setup.dataset, job.seed)
        judges = _batches(setup, apart.x_train, apart.y_train)
        setup = replace(setup, dataset=rest)
    if job.arm == "baseline":
        _train_full(settings, job, setup)
    elif job.arm == "scored":
        _search(settings, job, setup)
    else:
        _shrink(settings, job, setup, judges)


def _untrained(settings: PruneSettings, dataset: Dataset) -> nn.Module:
    """The full network before training: newly initialised, or with the user's weights."""
    if settings.weights is None:
        return build_seed(settings, dataset)
    return trained_network(settings.weights, lambda: build_seed(settings, dataset))


def _train_full(settings: PruneSettings, job: Job, setup: Setup) -> None:
    """Train the full network, or only measure it if it has the user's weights."""
    model = _untrained(settings, setup.dataset).to(settings.device)
    history = train(
        model,
        setup.inputs(),
        setup.loss(),
        setup.batches(job),
        training=replace(settings.training(), epochs=settings.pretrain_epochs),
        **setup.training(job),
    ).history
    setup.save(model, _kept(setup, "baseline", job.seed))
    setup.finish(job, history)


def _search(settings: PruneSettings, job: Job, setup: Setup) -> None:
    """Train while the channels are scored; save the network and the scores."""
    search = settings.search(job.seed)
    assert search is not None
    model = _full(settings, job, setup)
    scored = search_widths(
        model.to(settings.device),
        setup.inputs(),
        setup.loss(),
        _pairs(setup, job.seed),
        search=search,
        training=settings.training(),
        probe=probe(setup, settings.probe_samples, job.seed) or [],
        **setup.training(job),
    )
    setup.save(model, _kept(setup, "scored", job.seed))
    rows = Scores.of(scored.proposals).rows
    distributed.from_rank_zero(lambda: write_json(_scores(setup, job.seed), rows))
    setup.finish(job, scored.history)


def _shrink(settings: PruneSettings, job: Job, setup: Setup, judges: Batches) -> None:
    """Cut the full network, by the scores of a search if there was one, and fine-tune it."""
    full = _full(settings, job, setup).to(settings.device)
    method: Method
    if settings.search(job.seed) is None:
        model, method = _full(settings, job, setup), settings.method(job.seed)
    else:
        # With raw gates, or if only the search trained it, use the network of the search.
        in_search = settings.raw or settings.threshold is not None
        as_scored = in_search or "baseline" not in settings.arms()
        kept = _kept(setup, "scored" if as_scored else "baseline", job.seed)
        model = load(kept, setup.build)
        method = Scores(read_json(_scores(setup, job.seed), RESTORE))
    sample, held = _samples(settings, setup, job.seed, judges)
    accept = None
    if settings.accept:
        accept = Acceptance.against(full, settings.accept, judges, setup.dataset.task)
    budget = settings.budget_of(full, setup.inputs())
    done = shrink(
        model.to(settings.device),
        setup.inputs(),
        setup.loss(),
        setup.batches(job),
        **settings.cutting(budget, accept) | {"method": method},
        sensitivity=settings.sensitivity,
        calibration=sample,
        held=held,
        training=settings.tuning(),
        find_lr=settings.tuning_lr is None,
        teacher=full if settings.distill else None,
        temperature=settings.temperature or TEMPERATURE,
        fresh=setup.build if settings.from_scratch else None,
        **setup.training(job) | _told(setup, job, held, accept),
    )
    setup.save(model, setup.folder.of_seed("model", job.seed))
    setup.finish(job, done.history)


def _told(setup: Setup, job: Job, held: Batches, accept: Acceptance | None) -> dict[str, Any]:
    """The event entries about the samples that measure a cut, and the allowance on them."""
    samples = sum(len(labels) for _, labels in held)
    if accept is None:  # otherwise every process has all samples
        samples = int(distributed.all_sum([torch.tensor(float(samples))])[0])
    tags = setup.tags(job) | {"held_samples": samples}
    if accept is None:
        return {"tags": tags}

    def judged(model: nn.Module) -> dict[str, float]:
        return setup.measures(model) | distributed.from_rank_zero(lambda: accept.measures(model))

    return {"tags": tags | {"accept": dict(accept.allowed)}, "evaluate": judged}


def _samples(
    settings: PruneSettings, setup: Setup, seed: int, judges: Batches
) -> tuple[Batches, Batches]:
    """The training samples for choosing and refitting, and those for measuring."""
    number = settings.probe_samples
    drawn = probe(setup, number if judges else 2 * number, seed) or []
    inputs, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    cut = len(inputs) if judges else min(number, len(inputs) // 2)
    one, two = (_batches(setup, inputs[p], labels[p]) for p in (slice(cut), slice(cut, None)))
    return one, judges or two


def _batches(setup: Setup, inputs: Tensor, labels: Tensor) -> Batches:
    """Batches of samples on the device, at least two so that each half can judge the other."""
    size = min(CUT_BATCH, max(1, (len(inputs) + 1) // 2))
    return list(OrderedBatches(inputs, labels, size, setup.settings.device))


def _full(settings: PruneSettings, job: Job, setup: Setup) -> nn.Module:
    """The full network, trained or newly initialised."""
    trained = "baseline" in settings.arms()
    return load(_kept(setup, "baseline", job.seed), setup.build) if trained else setup.build()


def _kept(setup: Setup, arm: str, seed: int) -> Path:
    """The file of the network with which the next phase begins."""
    return setup.folder.path / f"{arm}-{seed}"


def _scores(setup: Setup, seed: int) -> Path:
    """The file of the scores of the search."""
    return setup.folder.path / f"scores-{seed}.json"


def _pairs(setup: Setup, seed: int) -> Pairs:
    """Batches of two halves of the training data, each in its own order."""
    data, settings = setup.dataset, setup.settings

    def half(index: torch.Tensor, number: int) -> Shuffled:
        part = replace(data, x_train=data.x_train[index], y_train=data.y_train[index])
        ticked = setup.ticked if number == 0 else lambda fraction: None
        return Shuffled(part, settings, 2 * seed + number, ticked)

    each = halves(len(data.x_train), seed)
    return Pairs(*(half(index, number) for number, index in enumerate(each)))
