"""One cell of the DARTS space: searched or drawn at random, derived, and trained from scratch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

import ramify
from experiments.rarts.images import accuracy, first, halved, some
from ramify import relax
from ramify.cells import DARTS, Supernet
from ramify.cells.derive import random_genotype
from ramify.cells.operation_latency import LatencyTable, measure_latencies
from ramify.cost import model_cost
from ramify.data import Dataset, batches
from ramify.latency import ThreadClock, measure
from ramify.relax.registry import searcher_named
from ramify.report.cell_figures import operation_kind
from ramify.store.files import read_json, write_json
from ramify.train.epoch import Training, cross_entropy
from ramify.train.loop import train

Row = dict[str, Any]
Tick = Callable[[float], None]

SEARCHED = ("rarts", "darts1")
FASTER = "-latency"  # with the expected latency in the loss
RANDOM = "random"
METHODS = (*SEARCHED, *(name + FASTER for name in SEARCHED), RANDOM)
REPEATS = 60  # calls by which an operation is timed


@dataclass(frozen=True)
class Settings:
    """The settings of the command.

    Attributes:
        data: data set.
        pooled: pixels in each direction that are averaged into one, after augmentation.
        channels: of the supernet.
        cells: of the supernet.
        samples: training images of a search, half of them for each of the two losses.
        batch: images per step of a search.
        epochs: passes over the halves.
        lr: of the weights in a search; falls to 0 with a cosine schedule.
        arch_lr: of α, by Adam.
        lam: λ.
        beta: β.
        gamma: γ of the methods with an expected latency, per millisecond.
        large_channels: of the derived network that is trained from scratch.
        large_cells: likewise.
        large_samples: its training images.
        large_batch: its images per step.
        large_epochs: its epochs.
        large_lr: its learning rate; falls to 0 with a cosine schedule.
    """

    data: str = "cifar10"
    pooled: int = 2
    channels: int = 4
    cells: int = 5
    samples: int = 4000
    batch: int = 32
    epochs: int = 8
    lr: float = 0.05
    arch_lr: float = 0.01
    lam: float = 1.0
    beta: float = 1.0
    gamma: float = 0.1
    large_channels: int = 8
    large_cells: int = 5
    large_samples: int = 20_000
    large_batch: int = 64
    large_epochs: int = 12
    large_lr: float = 0.05


def run(method: str, seed: int, settings: Settings, out: Path, tick: Tick) -> Row:
    """Search, derive a cell, and train its network.

    Args:
        method: one of `METHODS`.
        seed: of weights, images, halves and order, and of a random cell.
        settings: what to do.
        out: folder of the latency table and of unfinished parts.
        tick: called with the fraction of the work that an epoch is.

    Returns:
        The cell, its operations, and the test accuracy of its network.
    """
    torch.manual_seed(seed)
    data = some(settings.data, max(settings.samples, settings.large_samples), seed)
    genotype = (
        random_genotype(DARTS, seed)
        if method == RANDOM
        else DARTS.derive(_searched(method, seed, data, settings, out, tick))
    )
    net = nn.Sequential(
        nn.AvgPool2d(settings.pooled),
        DARTS.network(
            genotype.text,
            channels=settings.large_channels,
            cells=settings.large_cells,
            **_classes(data),
        ),
    )
    of_epoch = partial(batches, first(data, settings.large_samples), settings.large_batch, seed)
    training = Training(settings.large_epochs, lr=settings.large_lr, weight_decay=3e-4, span="run")
    train(
        net,
        data.x_train[:1],
        cross_entropy,
        of_epoch,
        training=training,
        checkpoint=out / f"{method}-{seed}-network.safetensors",
        log=lambda event: tick(float(event["event"] == "epoch")),
    )
    cost = model_cost(net, data.x_train[:1])
    for file in out.glob(f"{method}-{seed}-*.safetensors"):
        file.unlink()
    return {
        "genotype": genotype.text,
        "kinds": dict(Counter(operation_kind(name) for name in genotype.operations)),
        "accuracy": accuracy(net, data.x_test, data.y_test, "cpu"),
        "params": cost.params,
        "macs": cost.macs,
    }


def _searched(
    method: str, seed: int, data: Dataset, settings: Settings, out: Path, tick: Tick
) -> Supernet:
    """The supernet after a search, which resumes from its last epoch."""
    both = halved(first(data, settings.samples), seed)
    cells = DARTS.supernet(channels=settings.channels, cells=settings.cells, **_classes(data))
    net = nn.Sequential(nn.AvgPool2d(settings.pooled), cells)
    steps = settings.epochs * -(-(settings.samples // 2) // settings.batch)
    faster = method.endswith(FASTER)
    penalty = None
    if faster:
        costs = latencies(settings, data, out).costs(cells, _pooled(settings, data))
        penalty = relax.ExpectedCost(costs)
    make = searcher_named(method.removesuffix(FASTER), settings.lam, settings.beta)
    searcher = make(
        net,
        arch=cells.arch_parameters(),
        loss=cross_entropy,
        weight_optimizer=partial(SGD, lr=settings.lr, momentum=0.9, weight_decay=3e-4),
        arch_optimizer=partial(Adam, lr=settings.arch_lr, betas=(0.5, 0.999), weight_decay=1e-3),
        gamma=settings.gamma if faster else 0.0,
        penalty=penalty,
        schedules={"weights": partial(CosineAnnealingLR, T_max=steps)},
        clip=5.0,
    )
    ramify.search(
        searcher,
        relax.Pairs(*(partial(batches, half, settings.batch, seed) for half in both)),
        epochs=settings.epochs,
        checkpoint=out / f"{method}-{seed}-search.safetensors",
        log=lambda event: tick(float(event["event"] == "epoch")),
    )
    return cells


def latencies(settings: Settings, data: Dataset, out: Path) -> LatencyTable:
    """The latencies of the operations by the processor time of one thread, measured once."""
    path = out / "latency.json"
    if not path.exists():
        net = DARTS.supernet(channels=settings.channels, cells=settings.cells, **_classes(data))
        found = measure_latencies(
            net, _pooled(settings, data), repeats=REPEATS, clock=ThreadClock()
        )
        write_json(path, found.to_json())
    return LatencyTable.from_json(read_json(path, "delete it to measure again."))


def timed(texts: Sequence[str], settings: Settings) -> list[float]:
    """Milliseconds per image of the networks of some cells, timed in turn on one thread."""
    data = some(settings.data, 1, 0)
    sizes = {"channels": settings.large_channels, "cells": settings.large_cells} | _classes(data)
    nets = [DARTS.network(text, **sizes) for text in texts]
    once = partial(
        measure, inputs=_pooled(settings, data), repeats=1, warmup=1, clock=ThreadClock()
    )
    turns = [[once(net).median for net in nets] for _ in range(REPEATS)]
    return [median(times) for times in zip(*turns, strict=True)]


def total_epochs(method: str, settings: Settings) -> int:
    """Epochs of one run, for a progress bar."""
    return settings.large_epochs + (0 if method == RANDOM else settings.epochs)


def _pooled(settings: Settings, data: Dataset) -> Tensor:
    return nn.functional.avg_pool2d(data.x_train[:1], settings.pooled)


def _classes(data: Dataset) -> dict[str, Any]:
    return {"classes": len(data.classes), "in_channels": data.shape[0]}
