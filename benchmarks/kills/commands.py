"""The commands that are killed, which run for seconds, and the data that they train on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ramify.data import Dataset

DATA = ("--data", "benchmarks.kills.commands:noisy", "--threads", "1")
SMALL = (*DATA, "--epochs", "1", "--batch-size", "15")
NET = (*SMALL, "--width", "3", "--model", "digits_net")
PROBED = (*NET, "--probe-samples", "20")
CELLS = ("--space", "nats", "--channels", "4", "--cells", "1")


def noisy() -> Dataset:
    """Noisy copies of three images."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(60) % 3
    images = torch.randn(3, 1, 8, 8, generator=generator)[labels]
    images = images + 0.5 * torch.randn(60, 1, 8, 8, generator=generator)
    return Dataset("noisy", images[:45], labels[:45], images[45:], labels[45:], ("a", "b", "c"))


@dataclass(frozen=True)
class Command:
    """A command that is killed.

    Attributes:
        words: The arguments of `ramify`, without the folder.
        source: The command whose finished run it reads; None for none.
        resumes: Whether it has its own run folder, which `--resume` continues.
    """

    words: tuple[str, ...]
    source: str | None = None
    resumes: bool = True

    def begin(self, out: Path, sources: Path) -> tuple[str, ...]:
        """The arguments that start it; without a run folder it works in a copy of its source."""
        if self.source is None:
            return (*self.words, "--out", str(out))
        if self.resumes:
            return (self.words[0], str(sources / self.source), *self.words[1:], "--out", str(out))
        return (*self.words, str(out))

    def go_on(self, out: Path) -> tuple[str, ...]:
        """The arguments that resume it."""
        return (self.words[0], "--resume", str(out))


COMMANDS = {
    "grow": Command(("grow", *PROBED, "--rounds", "1", "--method", "s2d", "--seeds", "2")),
    "grow, Gauss-Newton": Command(("grow", *NET, "--rounds", "1", "--method", "gauss-newton")),
    "prune": Command(("prune", *PROBED, "--pretrain-epochs", "1")),
    "prune by a search": Command(
        ("prune", *PROBED, "--pretrain-epochs", "1", "--searcher", "rarts")
    ),
    "search": Command(("search", *SMALL, *CELLS, "--epochs", "2")),
    "search at random": Command(
        ("search", *SMALL, *CELLS, "--searcher", "random", "--candidates", "2")
    ),
    "retrain": Command(("retrain",), source="grow"),
    "retrain cells": Command(("retrain", "--epochs", "2"), source="search"),
    "report": Command(("report",), source="grow", resumes=False),
    "export": Command(("export",), source="grow, Gauss-Newton", resumes=False),
}
