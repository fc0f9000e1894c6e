"""Grow a network, cut it to smaller sizes, and train the networks to compare it with."""

import math
from dataclasses import replace

import torch
from torch import nn

from ramify.commands.grow_rounds import PRUNING
from ramify.commands.grow_settings import CUT, GROWN, RESOURCES, SEED, GrowSettings, size_of
from ramify.commands.jobs import RESTORE, Job, Setup, build_seed, prepare, probe, train_job
from ramify.commands.settings import OWN
from ramify.cost import graph_cost
from ramify.data import Dataset
from ramify.errors import RamifyError
from ramify.store.files import read_json
from ramify.tracing import trace
from ramify.train.depth_rounds import check_depth
from ramify.train.fresh_networks import scratch, wide
from ramify.train.grow import grow
from ramify.train.shrink import shrink

SHRINKING = (*PRUNING, OWN)  # methods that bring a larger network within a budget
CUT_SAMPLES = 1024  # training samples on which channels are chosen and the others refitted


def prepare_grow(settings: GrowSettings) -> Dataset:
    """Load the data, and check the network and the bounds of its widths, before any work."""
    dataset = prepare(settings)
    graph = trace(build_seed(settings, dataset), dataset.x_train[:1])
    bounds = settings.bounds()
    _, ceilings = bounds.floors_and_ceilings(graph)
    free = bounds.changeable(graph)
    if settings.depth:
        rule = settings.selection()
        check_depth(graph, bounds, rule, settings.trial, settings.rounds)
    elif _splits_alone(settings) and all(
        g.width >= ceilings.get(g.name, math.inf)
        for g in graph.groups
        if g.can_split and g.name in free
    ):
        named = "" if settings.groups is None else " of the groups"
        raise RamifyError(
            f"no layer{named} can grow, since each is as wide as its ceiling or cannot be split: "
            "raise the ceiling, or start with a smaller --width."
        )
    cost = graph_cost(graph)
    for name, most in (settings.budget or {}).items():
        if (
            name in RESOURCES
            and cost.of(name) > most
            and settings.choice("method", {"method": settings.method}) not in SHRINKING
        ):
            raise RamifyError(
                f"the budget of {name} is {most:,.12g}, but before growing the network already has "
                f"{cost.of(name):,}: start with a smaller --width, raise the budget, or cut a "
                "trained network by ramify prune."
            )
    has, least = cost.params, min(settings.sizes or (math.inf,))
    if least < has:
        raise RamifyError(
            f"the smallest of the sizes is {least:,} parameters, but before growing the network "
            f"already has {has:,}: start with a smaller --width, or give a larger size."
        )
    return dataset


def _splits_alone(settings: GrowSettings) -> bool:
    """Whether a run can only widen layers."""
    method = settings.choice("method", {"method": settings.method})
    return settings.rounds > 0 and method not in (*SHRINKING, "gauss-newton")


def run_grow(job: Job, setup: Setup) -> None:
    """Grow the network of a seed to the end, or train a network to compare it with."""
    settings = setup.settings
    assert isinstance(settings, GrowSettings)
    torch.manual_seed(job.seed)
    if job.arm.startswith(CUT):
        _cut(job, setup, settings)
        return
    if job.arm != GROWN:
        _compare(job, setup, settings)
        return
    model = setup.build().to(settings.device)
    done = grow(
        model,
        setup.inputs(),
        setup.loss(),
        setup.batches(job),
        method=settings.growth(job.seed),
        rule=settings.selection(),
        training=settings.training(),
        rounds=settings.rounds,
        budget=settings.budget,
        keep=settings.keep,
        ceiling=settings.ceiling,
        groups=settings.groups,
        trial=settings.trial,
        rescale=settings.rescale,
        depth=settings.depth,
        probe=probe(setup, settings.probe_samples, job.seed),
        **setup.training(job),
    )
    setup.keep(job, model)
    setup.finish(job, done.history)


def _cut(job: Job, setup: Setup, settings: GrowSettings) -> None:
    """Cut the next larger network to the size of the job, and distil the grown one into it."""
    arms, size = settings.arms(), size_of(job.arm)
    assert size is not None
    before = Job(arms[arms.index(job.arm) - 1], job.seed)
    model = setup.kept(before)
    if setup.events(before)[-1]["params"] <= size:  # it did not grow that large
        train_job(job, setup, model, settings.tuning())
        return
    model.to(settings.device)
    groups = None
    if settings.groups is not None:
        graph = trace(model, setup.inputs())
        free = settings.bounds().changeable(graph)
        groups = [group.name for group in graph.groups if group.name in free and group.can_prune]
    done = shrink(
        model,
        setup.inputs(),
        setup.loss(),
        setup.batches(job),
        budget={"params": size},
        multiple_of=settings.multiple_of,
        groups=groups,
        calibration=probe(setup, CUT_SAMPLES, job.seed),
        training=settings.tuning(),
        teacher=_teacher(job, setup),
        **setup.training(job),
    )
    setup.keep(job, model)
    setup.finish(job, done.history)


def _teacher(job: Job, setup: Setup) -> nn.Module | None:
    """The grown network as the teacher of a cut one, if the loss takes a softmax of the outputs."""
    if not setup.dataset.task.softmax_last:
        return None
    return setup.kept(Job(GROWN, job.seed)).to(setup.settings.device)


def _compare(job: Job, setup: Setup, settings: GrowSettings) -> None:
    """Train another network for as many steps as the grown one took in total."""
    events = setup.events(Job(GROWN, job.seed))
    epochs = sum(event["event"] == "epoch" for event in events)
    model = _compared(job, setup, events[-1]["params"])
    train_job(job, setup, model, replace(settings.training(), epochs=epochs, total_epochs=None))


def _compared(job: Job, setup: Setup, params: int) -> nn.Module:
    """The seed network, the grown shape from scratch, or a uniformly scaled network."""
    if job.arm == SEED:
        return setup.build()
    size = size_of(job.arm)
    if size is not None or job.arm == "wide":
        return wide(setup.build, setup.dataset.x_train[:1], size or params)
    recipe = read_json(setup.folder.of_seed("model", job.seed, ".json"), RESTORE)
    return scratch(setup.build, recipe)
