"""Growing a network, and training what it is compared with: what ``ramify grow`` does."""

from dataclasses import replace

import torch
from torch import nn

from ramify.commands.grow_settings import GrowSettings
from ramify.commands.jobs import RESTORE, Job, Setup, build_seed, prepare, probe, train_job
from ramify.data import Dataset
from ramify.store.files import read_json
from ramify.tracing import trace
from ramify.train.fresh_networks import scratch, wide
from ramify.train.grow import grow


def prepare_grow(settings: GrowSettings) -> Dataset:
    """Load the data, and try the network and the bounds of its widths, before any work."""
    dataset = prepare(settings)
    graph = trace(build_seed(settings, dataset), dataset.x_train[:1])
    settings.bounds().floors_and_ceilings(graph)
    return dataset


def run_grow(job: Job, setup: Setup) -> None:
    """Grow the network of a seed to the end, or train one that it is compared with."""
    settings = setup.settings
    assert isinstance(settings, GrowSettings)
    torch.manual_seed(job.seed)
    if job.arm != "grown":
        _compare(job, setup, settings)
        return
    model = setup.build().to(settings.device)
    done = grow(
        model,
        setup.inputs(),
        settings.loss(),
        setup.batches(job),
        method=settings.growth(job.seed),
        rule=settings.selection(),
        training=settings.training(),
        rounds=settings.rounds,
        budget=settings.budget,
        keep=settings.keep,
        ceiling=settings.ceiling,
        trial=settings.trial,
        rescale=settings.rescale,
        probe=probe(setup, settings.probe_samples, job.seed),
        **setup.training(job),
    )
    setup.keep(job, model)
    setup.finish(job, done.history)


def _compare(job: Job, setup: Setup, settings: GrowSettings) -> None:
    """Train another network for as many steps as the grown one made in all."""
    events = setup.events(Job("grown", job.seed))
    epochs = sum(event["event"] == "epoch" for event in events)
    model = _compared(job, setup, events[-1]["params"])
    train_job(job, setup, model, replace(settings.training(), epochs=epochs))


def _compared(job: Job, setup: Setup, params: int) -> nn.Module:
    """The seed network, the grown shape from fresh weights, or a uniformly scaled network."""
    if job.arm == "seed":
        return setup.build()
    if job.arm == "wide":
        return wide(setup.build, setup.dataset.x_train[:1], params)
    recipe = read_json(setup.folder.of_seed("model", job.seed, ".json"), RESTORE)
    return scratch(setup.build, recipe)
