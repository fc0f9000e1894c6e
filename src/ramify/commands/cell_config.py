"""The settings of a search for cells, and of the training of what it found."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch

from ramify.cells import DARTS, NATS, Space
from ramify.commands.config import FitConfig, RunConfig
from ramify.errors import RamifyError
from ramify.imports import object_at
from ramify.relax.registry import NAMES

SPACES: dict[str, Space] = {"darts": DARTS, "nats": NATS}
SEARCHERS = (*NAMES, "random")
SELECTIONS = ("mixing", "perturbation")
OWN: dict[str, frozenset[str]] = {  # settings that only some searchers take
    "lam": frozenset({"rarts", "milenas"}),
    "beta": frozenset({"rarts"}),
    "candidates": frozenset({"random"}),
}
CELL_SETTINGS = ("channels", "cells", "auxiliary", "drop_path", "cutout")
# What random search, which has no logits, does not take.
LOGITS = (
    *("arch_lr", "arch_weight_decay", "latency_weight", "latency_table"),
    *("warmup_epochs", "skip_stop", "partial_channels", "select"),
)


def space_named(name: str) -> Space:
    """The space of this name.

    Args:
        name: ``darts``, ``nats``, or ``package.module:space`` for one of the user.

    Returns:
        The space.

    Raises:
        RamifyError: There is none.
    """
    if name in SPACES:
        return SPACES[name]
    known = f"one of {', '.join(SPACES)}, or package.module:space for one of your own"
    found = object_at(name, "space", known)
    if not isinstance(found, Space):
        raise RamifyError(
            f"{name} is a {type(found).__name__}, where a ramify.cells.Space is expected: name one."
        )
    return found


@dataclass(frozen=True)
class SearchConfig(RunConfig):
    """The settings of ``ramify search``; what its searcher does not take is None.

    Attributes:
        space: Name of the space.
        searcher: What moves weights and logits.
        channels: Channels of the supernet's first cells.
        cells: Its depth.
        samples: Training samples to search on; None for all.
        lr: Learning rate of the weights at the start.
        weight_decay: Of the weights.
        arch_lr: Learning rate of the logits.
        arch_weight_decay: Of the logits.
        lam: λ of RARTS (2.11) or MiLeNAS (2.23).
        beta: β of RARTS.
        latency_weight: γ of (2.11), for each millisecond that is expected.
        latency_table: A file that holds the latencies; None measures them.
        warmup_epochs: Epochs at the start in which the logits rest.
        skip_stop: The most skip connections of a cell; the search ends before it derives more.
        partial_channels: With N, operations take one channel in N, and the others skip them.
        select: How operations are chosen in the end, one of `SELECTIONS`.
        candidates: Architectures that random search trains; None for as many as a first-order
            search would cost.
    """

    command: ClassVar[str] = "search"
    space: str
    searcher: str
    channels: int
    cells: int
    samples: int | None
    lr: float
    weight_decay: float
    arch_lr: float | None
    arch_weight_decay: float | None
    lam: float | None
    beta: float | None
    latency_weight: float | None
    latency_table: str | None
    warmup_epochs: int | None
    skip_stop: int | None
    partial_channels: int | None
    select: str | None
    candidates: int | None

    @classmethod
    def resolve(cls, given: dict[str, Any]) -> "SearchConfig":
        """Fill in what the user left open.

        Args:
            given: Settings by name; those left open are absent.

        Returns:
            All settings.

        Raises:
            RamifyError: Settings exclude each other or are out of range.
        """
        space, searcher = given.get("space", "darts"), given.get("searcher", "rarts")
        absent = [name for name, takers in OWN.items() if searcher not in takers]
        absent += LOGITS if searcher == "random" else ()
        for name in absent:
            if name in given:
                raise RamifyError(
                    f"{name.replace('_', '-')} is no setting of the searcher {searcher}; leave it "
                    "out, or choose a searcher that takes it."
                )
        small = given["data"] not in PAPER_DATA
        values = SEARCH_COMMON | {"threads": torch.get_num_threads()}
        values |= BY_SPACE.get(space, {}) | (SMALL_SEARCH if small else {})
        values |= {"cells": 1} if small and space == "nats" else {}
        values |= {"space": space, "searcher": searcher} | dict.fromkeys(absent) | given
        config = cls(**{field.name: values[field.name] for field in fields(cls)})
        config.check()
        return config

    def check(self) -> None:
        """Raise a RamifyError where a setting is out of range."""
        self.check_counts()
        space = space_named(self.space)
        for name, value, known in (
            ("searcher", self.searcher, SEARCHERS),
            ("select", self.select or SELECTIONS[0], SELECTIONS),
        ):
            if value not in known:
                raise RamifyError(f"unknown {name} {value!r}; choose one of {', '.join(known)}.")
        ones = dict.fromkeys(("epochs", "channels", "cells", "partial_channels", "candidates"), 1)
        for name, least in (ones | {"samples": 4}).items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise RamifyError(f"{name} is {value}; give {least} or more.")
        for name in ("lr", "arch_lr", "beta"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise RamifyError(f"{name} is {value}; it must be above 0.")
        for name in ("weight_decay", "arch_weight_decay", "lam", "latency_weight", "skip_stop"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise RamifyError(f"{name} is {value}; it must not be negative.")
        warmup = self.warmup_epochs
        if warmup is not None and not 0 <= warmup < self.epochs:
            raise RamifyError(
                f"warmup_epochs is {warmup} of {self.epochs} epochs; leave some in which the "
                "logits move."
            )
        if self.latency_table is not None and not self.latency_weight:
            raise RamifyError("latency_table has no effect without latency_weight; give both.")
        if self.skip_stop is not None and self.select == "perturbation":
            raise RamifyError(
                "skip_stop counts what the mixing weights derive, and select perturbation derives "
                "otherwise; leave one of them out."
            )
        if self.skip_stop is not None and "skip_connect" not in space.operations:
            raise RamifyError(
                f"space {self.space} has no skip_connect that skip_stop could count; leave it out."
            )

    def arms(self) -> tuple[str, ...]:
        """One search a seed; of random search, its candidates before."""
        return (*(f"candidate{number}" for number in range(self.candidates or 0)), "searched")

    def passes(self) -> int:
        """Epochs that a seed makes, at most."""
        return self.epochs * (self.candidates or 1)


@dataclass(frozen=True)
class CellTrainConfig(FitConfig):
    """The settings of ``ramify retrain`` for cells that a search found.

    Attributes:
        source: The folder of the search.
        space: Name of the space.
        genotypes: Text of the architecture of each seed in turn; begun again where seeds are left.
        channels: Channels of the first cells.
        cells: Depth.
        auxiliary: Weight of the auxiliary head's loss; 0 for none.
        drop_path: Probability of dropping an edge, reached at the end; it grows from 0.
        cutout: Side of the square that is cut out of each training image; 0 for none.
    """

    command: ClassVar[str] = "retrain"
    source: str
    space: str
    genotypes: tuple[str, ...]
    channels: int
    cells: int
    auxiliary: float
    drop_path: float
    cutout: int

    def check(self) -> None:
        """Raise a RamifyError where a setting is out of range."""
        self.check_training()
        for name in ("channels", "cells"):
            if getattr(self, name) < 1:
                raise RamifyError(f"{name} is {getattr(self, name)}; give 1 or more.")
        for name in ("auxiliary", "cutout"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise RamifyError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if not 0 <= self.drop_path < 1:
            raise RamifyError(f"drop_path is {self.drop_path}; it is 0 or more, and below 1.")

    def arms(self) -> tuple[str, ...]:
        """One network a seed."""
        return ("retrained",)

    def passes(self) -> int:
        """Epochs that a seed makes."""
        return self.epochs

    def genotype(self, seed: int) -> str:
        """The text of what a seed trains."""
        return self.genotypes[(seed - self.seed) % len(self.genotypes)]


PAPER_DATA = ("cifar10", "cifar100")
# As DARTS and the thesis (3.2.1), which leaves λ and β open.
SEARCH_COMMON: dict[str, Any] = {
    "channels": 16,
    "cells": 8,
    "epochs": 50,
    "batch_size": 64,
    "samples": None,
    "lr": 0.025,
    "weight_decay": 3e-4,
    "arch_lr": 3e-4,
    "arch_weight_decay": 1e-3,
    "lam": 1.0,
    "beta": 0.1,
    "latency_weight": 0.0,
    "latency_table": None,
    "warmup_epochs": 0,
    "skip_stop": None,
    "partial_channels": 1,
    "select": "mixing",
    "candidates": None,
    "seed": 0,
    "seeds": 1,
    "device": "cpu",
}
BY_SPACE: dict[str, dict[str, Any]] = {"nats": {"cells": 5, "weight_decay": 5e-4}}
# Seconds, to see it work: small images, and logits that move within few steps.
SMALL_SEARCH = {"channels": 4, "cells": 3, "epochs": 5, "arch_lr": 0.01, "threads": 1}

FIT_COMMON: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "milestones": (0.5, 0.75),
    "schedule": "cosine",
    "span": "round",
    "nesterov": False,
    "lr": 0.025,
    "weight_decay": 3e-4,
    "batch_size": 96,
    "epochs": 600,
    "channels": 36,
    "cells": 20,
    "auxiliary": 0.4,
    "drop_path": 0.2,
    "cutout": 16,
}
# As NAS-Bench-201 trained the networks of its tables.
FIT_BY_SPACE: dict[str, dict[str, Any]] = {
    "nats": {
        "nesterov": True,
        "lr": 0.1,
        "weight_decay": 5e-4,
        "batch_size": 256,
        "epochs": 200,
        "channels": 16,
        "cells": 5,
        "auxiliary": 0.0,
        "drop_path": 0.0,
        "cutout": 0,
    }
}
SMALL_FIT = {"epochs": 20, "batch_size": 64, "auxiliary": 0.0, "drop_path": 0.0, "cutout": 0}
