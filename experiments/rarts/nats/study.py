"""One search of a cell in the NATS-Bench space at small size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

import ramify
from experiments.rarts.images import Batch, accuracy, halved, moved, placed, some
from ramify import relax
from ramify.cells import NATS, Genotype
from ramify.cells.perturb import derive_by_perturbation
from ramify.data import Dataset, batches
from ramify.relax.registry import searcher_named
from ramify.tracing.recorder import evaluating
from ramify.train.epoch import cross_entropy

RANDOM = ("random", "random-never-none")
METHODS = ("rarts", "darts1", "darts2", "milenas", "joint", *RANDOM)
PASSES = {"rarts": 4, "darts1": 2, "darts2": 5, "milenas": 3, "joint": 2}  # batches a step
WARM = 2  # with warm-up, α stays as it is for the first 1 / WARM of the search
PROBE = 500  # images of the second half by which operations are chosen by perturbation


@dataclass(frozen=True)
class Settings:
    """The settings of the command.

    Attributes:
        data: data set; the published tables have CIFAR-10 and CIFAR-100.
        channels: of the first stage; 16 in the benchmark.
        cells: of each stage; 5 in the benchmark.
        samples: training images, half of them for each of the two losses.
        batch: images per step.
        epochs: passes over the halves.
        lr: of the weights; falls to 0 with a cosine schedule.
        arch_lr: of α, by Adam.
        lam: λ.
        beta: β.
        candidates: cells that random search trains, each for an equal share of the passes of
            RARTS.
        warmup: 1 keeps α fixed in the first half of the search.
        device: the device of all computations.
    """

    data: str = "cifar10"
    channels: int = 4
    cells: int = 1
    samples: int = 3200
    batch: int = 32
    epochs: int = 4
    lr: float = 0.05
    arch_lr: float = 0.01
    lam: float = 1.0
    beta: float = 0.1
    candidates: int = 8
    warmup: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        genotype: the cell.
        perturbed: the cell of the operations whose removal costs the supernet most.
        validation: accuracy on the second half, of the supernet or of the best candidate.
        history: mixing weights (6, 5) after every epoch; empty for random search.
        seconds: of processor time, including those before an interruption.
    """

    genotype: Genotype
    perturbed: Genotype
    validation: float
    history: list[list[list[float]]]
    seconds: float = field(compare=False)


def run(
    method: str,
    seed: int,
    settings: Settings,
    tick: Callable[[], None],
    checkpoint: Path | None = None,
) -> Found:
    """One search.

    Args:
        method: one of `METHODS`.
        seed: of the weights, the halves, the order of the images and the random cells.
        settings: what to do.
        tick: called for every training step; in a gradient-based search after each epoch.
        checkpoint: a file from which a gradient-based search resumes at its last epoch; none by
            default.

    Returns:
        The cell, and the course of the search.
    """
    torch.manual_seed(seed)
    both = halved(some(settings.data, settings.samples, seed), seed)
    if method in RANDOM:
        return _random(method, both, seed, settings, tick)
    return _relaxed(method, both, seed, settings, tick, checkpoint)


def _relaxed(
    method: str,
    both: Sequence[Dataset],
    seed: int,
    settings: Settings,
    tick: Callable[[], None],
    checkpoint: Path | None,
) -> Found:
    net = NATS.supernet(**_sizes(both[0], settings))
    net = moved(net, settings.device)
    last = time.process_time()

    def lap() -> float:
        nonlocal last
        before, last = last, time.process_time()
        return last - before

    def passes(half: Dataset, epoch: int) -> Iterator[Batch]:
        for batch in batches(half, settings.batch, seed, epoch):
            yield placed(batch, settings.device)

    def after_epoch(model: nn.Module) -> dict[str, Any]:
        for _ in range(steps(settings)):
            tick()
        [alpha] = model.arch_parameters()  # type: ignore[operator]
        return {"mixing": alpha.softmax(-1).tolist(), "processor": lap()}

    events = ramify.search(
        _searcher(method, net, settings),
        relax.Pairs(*(partial(passes, half) for half in both)),
        epochs=settings.epochs,
        checkpoint=checkpoint,
        evaluate=after_epoch,
    )
    history = [event["mixing"] for event in events]
    validation = accuracy(net, both[1].x_train, both[1].y_train, settings.device)
    images, labels = placed((both[1].x_train[:PROBE], both[1].y_train[:PROBE]), settings.device)

    def loss(mixing: Mapping[str, Tensor]) -> float:
        with evaluating(net):
            return float(functional.cross_entropy(net(images, mixing), labels))

    perturbed = derive_by_perturbation(net, loss)
    seconds = sum(event["processor"] for event in events) + lap()
    return Found(NATS.derive(net), perturbed, validation, history, seconds)


def _searcher(method: str, net: nn.Module, settings: Settings) -> relax.Searcher:
    """The searcher of that name, with the common settings."""
    total = settings.epochs * steps(settings)
    still = settings.epochs // WARM * steps(settings) if settings.warmup else 0
    decay = partial(CosineAnnealingLR, T_max=total)
    warm = partial(LambdaLR, lr_lambda=lambda step: float(step >= still))
    common: dict[str, Any] = {
        "arch": net.arch_parameters(),  # type: ignore[operator]
        "loss": cross_entropy,
        "weight_optimizer": partial(SGD, lr=settings.lr, momentum=0.9, weight_decay=3e-4),
        "arch_optimizer": partial(Adam, lr=settings.arch_lr, betas=(0.5, 0.999), weight_decay=1e-3),
        "schedules": {"weights": decay, "arch": warm},
        "clip": 5.0,
    }
    return searcher_named(method, settings.lam, settings.beta)(net, **common)


def _random(
    method: str, both: Sequence[Dataset], seed: int, settings: Settings, tick: Callable[[], None]
) -> Found:
    """The best of some random cells by accuracy on the second half, in as many passes as RARTS."""
    started, generator = time.process_time(), torch.Generator().manual_seed(seed)
    each = PASSES["rarts"] * settings.epochs * steps(settings) // settings.candidates
    best: tuple[float, Genotype] | None = None
    for _ in range(settings.candidates):
        genotype = drawn(generator, method == RANDOM[0])
        net = NATS.network(genotype, **_sizes(both[0], settings))
        net = moved(net, settings.device)
        optimizer = SGD(net.parameters(), lr=settings.lr, momentum=0.9, weight_decay=3e-4)
        schedule = CosineAnnealingLR(optimizer, each)
        net.train()
        for batch in _first(both, seed, settings, each):
            optimizer.zero_grad()
            cross_entropy(net, batch).mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            tick()
        score = accuracy(net, both[1].x_train, both[1].y_train, settings.device)
        if best is None or score > best[0]:
            best = score, genotype
    assert best is not None
    return Found(best[1], best[1], best[0], [], time.process_time() - started)


def _sizes(data: Dataset, settings: Settings) -> dict[str, Any]:
    sizes = {"channels": settings.channels, "cells": settings.cells}
    return sizes | {"classes": len(data.classes), "in_channels": data.shape[0]}


def drawn(generator: torch.Generator, none: bool = True) -> Genotype:
    """A uniformly random cell of the space, with or without `none`."""
    names = [name for name in NATS.operations if none or name != "none"]
    numbers = torch.randint(len(names), (len(NATS.edges),), generator=generator).tolist()
    edges = [
        f"{names[number]}~{source}" for number, (source, _) in zip(numbers, NATS.edges, strict=True)
    ]
    return NATS.parse(f"|{edges[0]}|+|{'|'.join(edges[1:3])}|+|{'|'.join(edges[3:])}|")


def steps(settings: Settings) -> int:
    """Steps of an epoch of a searcher."""
    return -(-(settings.samples // 2) // settings.batch)


def total_steps(method: str, settings: Settings) -> int:
    """Steps of one search, for a progress bar."""
    made = settings.epochs * steps(settings)
    if method not in RANDOM:
        return made
    return PASSES["rarts"] * made // settings.candidates * settings.candidates


def _first(both: Sequence[Dataset], seed: int, settings: Settings, count: int) -> Iterator[Batch]:
    """A number of batches of the first half."""
    made = 0
    while True:
        for batch in batches(both[0], settings.batch, seed, made // steps(settings)):
            if made == count:
                return
            made += 1
            yield placed(batch, settings.device)
