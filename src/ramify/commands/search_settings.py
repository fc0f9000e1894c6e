"""The settings of ``ramify search``."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ramify.commands.settings import OWN, SEARCH, TRAIN, WHAT, Settings, option
from ramify.errors import RamifyError

if TYPE_CHECKING:
    from ramify.cells import Space

GRADIENTS = ("rarts", "darts1", "darts2", "milenas", "joint", OWN)
SEARCHERS = (*GRADIENTS[:-1], "random", OWN)
SELECTIONS = ("mixing", "perturbation")
BY_GRADIENTS = {"searcher": GRADIENTS}  # random search has no logits


class SearchSettings(Settings):
    """The settings of ``ramify search``; those that its searcher does not take are None."""

    kind: ClassVar[str] = "search"

    space: str = option(
        WHAT,
        "The search space: darts, nats, or package.module:object, your own ramify.cells.Space",
    )
    channels: int = option(WHAT, "Channels of the first cells.", ge=1)
    cells: int = option(
        WHAT, "The number of cells: for darts in all, for nats in each of its three stages.", ge=1
    )
    searcher: str = option(
        SEARCH,
        "The search algorithm: {}. random trains random architectures at the total cost of a "
        "first-order search and keeps the best; your own is a subclass of ramify.relax.Searcher.",
        choices=SEARCHERS,
    )
    epochs: int = option(
        SEARCH,
        "Passes over the two halves of the data; for random, passes for each architecture.",
        ge=1,
    )
    samples: int | None = option(
        SEARCH, "Training images to search on, both halves together. Default: all.", ge=4
    )
    arch_lr: float | None = option(SEARCH, "Learning rate of the logits α.", of=BY_GRADIENTS, gt=0)
    arch_weight_decay: float | None = option(
        SEARCH, "Weight decay of the logits", of=BY_GRADIENTS, ge=0
    )
    lam: float | None = option(
        SEARCH,
        "λ, the weight of the loss on the other half",
        of={"searcher": ("rarts", "milenas")},
        ge=0,
    )
    beta: float | None = option(
        SEARCH,
        "β, how strongly the two copies of the weights attract each other",
        of={"searcher": ("rarts",)},
        gt=0,
    )
    latency_weight: float | None = option(
        SEARCH,
        "γ, the weight of one millisecond of expected latency in the loss",
        of=BY_GRADIENTS,
        ge=0,
    )
    latency_table: str | None = option(
        SEARCH,
        "A file of latencies, such as latency.json of another run, to use instead of measuring "
        "them on this machine.",
        of=BY_GRADIENTS,
    )
    warmup_epochs: int | None = option(
        SEARCH,
        "Number of epochs at the start in which only the weights are trained, not the logits",
        of=BY_GRADIENTS,
    )
    skip_stop: int | None = option(
        SEARCH,
        "End the search before a cell has more skip connections than this.",
        of=BY_GRADIENTS,
        ge=0,
    )
    partial_channels: int | None = option(
        SEARCH,
        "k: only 1/k of the channels pass through the operations and the others skip them, which "
        "takes less time and memory (PC-DARTS)",
        of=BY_GRADIENTS,
        ge=1,
    )
    select: str | None = option(
        SEARCH,
        "How the operations are chosen at the end: mixing (by the mixing weights) or perturbation "
        "(by the cost of removing each).",
        choices=SELECTIONS,
        of=BY_GRADIENTS,
    )
    candidates: int | None = option(
        SEARCH,
        "The number of architectures that random search trains, regardless of their cost.",
        of={"searcher": ("random",)},
        ge=1,
    )
    lr: float = option(TRAIN, "Initial learning rate of the weights", gt=0)
    weight_decay: float = option(TRAIN, "Weight decay of the weights.", ge=0)

    def check(self) -> None:
        """Raise a RamifyError where settings do not agree."""
        super().check()
        space = space_named(self.space)
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
        if ":" in self.searcher:
            from ramify.relax.registry import searcher_named

            searcher_named(self.searcher)

    def arms(self) -> tuple[str, ...]:
        """One search a seed; of random search, its candidates before."""
        return (*(f"candidate{number}" for number in range(self.candidates or 0)), "searched")

    def passes(self) -> int:
        """Epochs that a seed makes, at most."""
        return self.epochs * (self.candidates or 1)


def space_named(name: str) -> Space:
    """The space of this name."""
    from ramify.cells import DARTS, NATS, Space
    from ramify.imports import object_at

    spaces = {"darts": DARTS, "nats": NATS}
    if name in spaces:
        return spaces[name]
    known = f"one of {', '.join(spaces)}, or package.module:object for one of your own"
    found = object_at(name, "space", known, spaces)
    if not isinstance(found, Space):
        raise RamifyError(
            f"{name} is a {type(found).__name__}, where a ramify.cells.Space is expected: name one."
        )
    return found
