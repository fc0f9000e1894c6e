"""The training data of a run: epochs by number, and passes over them for a method."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ramify.errors import RamifyError
from ramify.probe.loss import number_of_batches
from ramify.relax.pairs import Data as Data


@dataclass(frozen=True)
class Epoch:
    """The batches of one epoch, which can be iterated over repeatedly.

    Attributes:
        data: The batches of every epoch, or a function of the epoch's number.
        number: The number of the epoch.

    Example:
        >>> list(Epoch(lambda epoch: [f'batch of epoch {epoch}'], number=2))
        ['batch of epoch 2']
    """

    data: Data
    number: int

    def __iter__(self) -> Iterator[Any]:
        """One pass, of which nothing is kept in memory."""
        found = self.data(self.number) if callable(self.data) else self.data
        if not isinstance(found, Iterable):
            raise RamifyError(
                f"the data are a {type(found).__name__}, where a list of batches, a DataLoader or "
                "a function of the epoch's number that gives one is expected"
            )
        return iter(found)


@dataclass
class Passes:
    """The training data for a method that learns: each pass is a new epoch.

    Attributes:
        data: As in :class:`Epoch`.
        epoch: The number of the next pass.
        steps: Batches per pass.

    Example:
        >>> passes = Passes(lambda epoch: [f'batch of epoch {epoch}'], epoch=3, steps=1)
        >>> list(passes), list(passes), passes.epoch
        (['batch of epoch 3'], ['batch of epoch 4'], 5)
    """

    data: Data
    epoch: int
    steps: int

    def __len__(self) -> int:
        """Batches per pass."""
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        """The next pass."""
        self.epoch += 1
        return iter(Epoch(self.data, self.epoch - 1))


def steps_of(data: Data) -> int:
    """The number of batches in an epoch, counted if the data has no length."""
    known = number_of_batches(data)
    return known or sum(1 for _ in Epoch(data, 0))  # a length of 0 may be a mere default
