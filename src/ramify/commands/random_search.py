"""Random search for cells: the baseline of the same cost.

It draws as many architectures as the MACs of a first-order search pay for, trains each for as many
epochs on D_a, and keeps the one that is best on D_p. Per epoch, a first-order search runs the
supernet forward and backward on each sample of D_a and of D_p; a candidate runs forward and
backward on D_a only, and once forward on D_p at the end. A backward pass costs twice a forward
pass.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ramify.cells.derive import random_genotype
from ramify.commands.jobs import EVALUATION_BATCH, Job, OrderedBatches, Setup, Shuffled
from ramify.commands.search import (
    MOMENTUM,
    build_derived,
    build_supernet,
    describe_space,
    divided,
    finish_search,
)
from ramify.commands.search_settings import SearchSettings, space_named
from ramify.data import Dataset
from ramify.tracing.recorder import evaluating
from ramify.train.epoch import Training, cross_entropy, evaluate
from ramify.train.loop import train

SAMPLED = 8  # architectures whose mean cost determines how many are affordable


def with_candidates(settings: SearchSettings, dataset: Dataset) -> SearchSettings:
    """The settings with the number of architectures that the budget allows."""
    if settings.searcher != "random" or settings.candidates is not None:
        return settings
    space, inputs = space_named(settings.space), dataset.x_train[:1]
    costs = [
        _macs(build_derived(settings, dataset, random_genotype(space, seed).text), inputs)
        for seed in range(SAMPLED)
    ]
    in_a, in_p = (len(data.x_train) for data in divided(settings, dataset, settings.seed))
    budget = 3 * settings.epochs * (in_a + in_p) * _macs(build_supernet(settings, dataset), inputs)
    each = (3 * settings.epochs * in_a + in_p) * sum(costs) / len(costs)
    return settings.model_copy(update={"candidates": max(1, round(budget / each))})


def run_random(job: Job, setup: Setup) -> None:
    """Run one job of random search to its end: train a candidate, or select the best."""
    settings = setup.settings
    assert isinstance(settings, SearchSettings)
    describe_space(settings, setup.folder)
    torch.manual_seed(job.seed)
    if job.arm == "searched":
        own = [e for e in setup.folder.events() if e["event"] == "result" and e["seed"] == job.seed]
        best = max(own, key=lambda event: event["valid_accuracy"])
        total = {key: sum(event[key] for event in own) for key in ("t", "seconds")}
        steps = sum(event["steps"] for event in own)
        finish_search(job, setup, best["genotype"], {"step": steps} | total)
    else:
        _train_candidate(job, setup, settings)


def _train_candidate(job: Job, setup: Setup, settings: SearchSettings) -> None:
    number = settings.arms().index(job.arm)
    # Candidates have seeds that no other job uses: a run has fewer than a million of them.
    text = random_genotype(space_named(settings.space), 10**6 * (job.seed + 1) + number).text
    data_a, data_p = divided(settings, setup.dataset, job.seed)
    net = build_derived(settings, setup.dataset, text).to(settings.device)
    shared = setup.training(job) | {"evaluate": lambda net: _valid(net, data_p, settings.device)}
    history = train(
        net,
        setup.inputs(),
        cross_entropy,
        Shuffled(data_a, settings, job.seed, setup.ticked),
        training=Training(
            epochs=settings.epochs,
            lr=settings.lr,
            momentum=MOMENTUM,
            weight_decay=settings.weight_decay,
        ),
        **shared,
    ).history
    last = next(event for event in reversed(history) if event["event"] == "epoch")
    found = {"genotype": text, "t": history[-1]["t"], "seconds": history[-1]["t"]}
    found |= {key: last[key] for key in ("valid_accuracy", "params", "macs")}
    setup.end(job, found | {"steps": last["step"]})


def _valid(net: nn.Module, data: Dataset, device: str) -> dict[str, Any]:
    """Loss and accuracy on D_p."""
    parts = OrderedBatches(data.x_train, data.y_train, EVALUATION_BATCH, device)
    loss, accuracy = evaluate(net, parts)
    return {"valid_loss": loss, "valid_accuracy": accuracy}


def _macs(net: nn.Module, inputs: Tensor) -> int:
    with evaluating(net), FlopCounterMode(display=False) as counter:
        net(inputs)
    return int(counter.get_total_flops()) // 2
