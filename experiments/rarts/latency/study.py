"""One search with a weight of the latency penalty, and the measured latency of its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ramify.cells import DARTS, Genotype
from ramify.cells.operation_latency import LatencyTable, measure_latencies
from ramify.commands.jobs import run_jobs
from ramify.commands.run_folder import CONFIG, RunFolder
from ramify.commands.search import run_search
from ramify.commands.search_settings import SearchSettings
from ramify.data import load
from ramify.latency import ThreadClock, measure
from ramify.report.cell_figures import operation_kind
from ramify.store.files import read_json, write_json

Row = dict[str, Any]
REPEATS = 60  # calls that are timed


@dataclass(frozen=True)
class Settings:
    """The settings of the command.

    Attributes:
        searcher: of `ramify search`.
        channels: of the supernet.
        cells: of the supernet.
        samples: training images, half of them for each of the two losses.
        batch: images per step.
        epochs: passes over the halves.
        arch_lr: of α, by Adam.
        beta: β of RARTS.
        large_channels: of the derived network at the size for use.
        large_cells: likewise.
    """

    searcher: str = "rarts"
    channels: int = 4
    cells: int = 5
    samples: int = 256
    batch: int = 16
    epochs: int = 4
    arch_lr: float = 0.05
    beta: float = 1.0
    large_channels: int = 16
    large_cells: int = 8


def table(settings: Settings, path: Path) -> LatencyTable:
    """The latencies of this machine as the processor time of one thread, measured once."""
    if not path.exists():
        net = DARTS.supernet(channels=settings.channels, cells=settings.cells)
        found = measure_latencies(net, _image(), repeats=REPEATS, clock=ThreadClock())
        write_json(path, found.to_json())
    return LatencyTable.from_json(read_json(path, "delete it to measure again."))


def run(
    gamma: float, seed: int, settings: Settings, out: Path, tick: Callable[[float], None]
) -> Row:
    """Search and derive a cell.

    Args:
        gamma: the weight of the expected latency, per millisecond.
        seed: of weights, halves and order.
        settings: what to do.
        out: folder that holds the table and receives a run folder.
        tick: called with the fraction of an epoch that a step is.

    Returns:
        The result of the search.
    """
    given: dict[str, Any] = {
        "data": "cifar10",
        "space": "darts",
        "searcher": settings.searcher,
        "channels": settings.channels,
        "cells": settings.cells,
        "samples": settings.samples,
        "batch_size": settings.batch,
        "epochs": settings.epochs,
        "arch_lr": settings.arch_lr,
        "seed": seed,
        "threads": 1,
    }
    if settings.searcher == "rarts":
        given["beta"] = settings.beta
    if gamma:
        given |= {"latency_weight": gamma, "latency_table": str(out / "latency.json")}
    config = SearchSettings.resolve(given)
    path = out / f"gamma-{gamma:g}-seed-{seed}"
    begun = (path / CONFIG).exists()
    folder = RunFolder.open(path) if begun else RunFolder.create(path, config.to_json())
    folder.check(config.to_json())
    run_jobs(config, folder, load("cifar10"), ticked=tick, run=run_search)
    text = next(e["genotype"] for e in folder.events() if e["event"] == "result")
    return {"genotype": text} | made_of(text, settings, out)


def made_of(text: str, settings: Settings, out: Path) -> Row:
    """The operations of an architecture, and its latency from the table."""
    genotype = DARTS.parse(text)
    kinds = Counter(operation_kind(operation) for operation in genotype.operations)
    summed = _summed(table(settings, out / "latency.json"), genotype, settings)
    return {"summed": summed, "kinds": dict(kinds)}


def timed(texts: Sequence[str], settings: Settings) -> list[Row]:
    """The latency of architectures at the size of the search and larger.

    They are run in turn, so that other load on the machine affects all of them; the result is the
    median over the rounds.

    Args:
        texts: the architectures.
        settings: their sizes.

    Returns:
        Milliseconds per image of each.
    """
    sizes = {
        "latency": (settings.channels, settings.cells),
        "latency_large": (settings.large_channels, settings.large_cells),
    }
    found: list[Row] = [{} for _ in texts]
    for name, (channels, cells) in sizes.items():
        nets = [DARTS.network(text, channels=channels, cells=cells) for text in texts]
        once = partial(measure, inputs=_image(), repeats=1, warmup=1, clock=ThreadClock())
        turns = [[once(net).median for net in nets] for _ in range(REPEATS)]
        for row, times in zip(found, zip(*turns, strict=True), strict=True):
            row[name] = median(times)
    return found


def _summed(latencies: LatencyTable, genotype: Genotype, settings: Settings) -> float:
    """The latency of an architecture from the table: the sum over its operations (3.1.4)."""
    net = DARTS.supernet(channels=settings.channels, cells=settings.cells)
    names, total = list(DARTS.operations), 0.0
    for kind, costs in zip(DARTS.kinds, latencies.costs(net, _image()), strict=True):
        for target, edges in enumerate(genotype[kind], start=DARTS.inputs):
            for name, source in edges:
                total += float(costs[DARTS.edges.index((source, target)), names.index(name)])
    return total


def _image() -> Tensor:
    return torch.zeros(1, 3, 32, 32)
