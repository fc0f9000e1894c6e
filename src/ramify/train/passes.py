"""The training data of a run: epochs by their number, and passes that a method asks for."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ramify.errors import RamifyError
from ramify.probe.loss import number_of_batches

Data = Iterable[Any] | Callable[[int], Iterable[Any]]
"""Batches: a list, a ``DataLoader``, or a function of the epoch's number that returns them."""


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch, as often as wanted.

    Attributes:
        data: The batches of every epoch, or a function of its number.
        number: Which.

    Example:
        >>> list(Epoch(lambda epoch: [f'batch of epoch {epoch}'], number=2))
        ['batch of epoch 2']
    """

    data: Data
    number: int

    def __iter__(self) -> Iterator[Any]:
        """One pass; nothing of it is kept."""
        found = self.data(self.number) if callable(self.data) else self.data
        if not isinstance(found, Iterable):
            raise RamifyError(
                f"the data are a {type(found).__name__}, where a list of batches, a DataLoader or "
                "a function of the epoch's number that gives one is expected"
            )
        return iter(found)


@dataclass
class Passes:
    """The training data as a method that learns wants it: each pass is a further epoch.

    Attributes:
        data: As in :class:`Epoch`.
        epoch: The number of the next pass.
        steps: Batches of a pass.

    Example:
        >>> passes = Passes(lambda epoch: [f'batch of epoch {epoch}'], epoch=3, steps=1)
        >>> list(passes), list(passes), passes.epoch
        (['batch of epoch 3'], ['batch of epoch 4'], 5)
    """

    data: Data
    epoch: int
    steps: int

    def __len__(self) -> int:
        """Batches of a pass."""
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        """The next pass."""
        self.epoch += 1
        return iter(Epoch(self.data, self.epoch - 1))


def steps_of(data: Data) -> int:
    """How many batches an epoch has, counted where the data does not say."""
    known = number_of_batches(data)
    return known or sum(1 for _ in Epoch(data, 0))  # a length of 0 may be no more than a default
