"""The two halves of the data that a search goes by: disjoint, checked, and in pairs of batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ramify.errors import RamifyError
from ramify.probe.loss import number_of_batches

Data = Iterable[Any] | Callable[[int], Iterable[Any]]
SIDES = ("first", "second")


def halves(count: int, seed: int, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """Divide the numbers of samples at random into two sets that do not overlap.

    Args:
        count: samples.
        seed: of the division; with the same seed it is the same everywhere, on every rank.
        share: of the first set.

    Returns:
        The numbers in D_a and those in D_p, each in rising order, int64: (S_a,) and (S_p,).

    Raises:
        RamifyError: one of the sets would be empty.

    Example:
        >>> a, p = halves(6, seed=0)
        >>> len(a), len(p), sorted([*a.tolist(), *p.tolist()])
        (3, 3, [0, 1, 2, 3, 4, 5])
    """
    first = round(count * share)
    if not 0 < first < count:
        raise RamifyError(
            f"a share of {share} of {count} samples leaves one half empty; give more samples, or a "
            "share nearer to 0.5"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:first].sort().values, order[first:].sort().values


def check_halves(a: Iterable[int], p: Iterable[int]) -> None:
    """Make sure that two sets of numbers of samples are fit to search by.

    Args:
        a: the numbers in D_a.
        p: those in D_p.

    Raises:
        RamifyError: a set is empty or holds a number twice, or both hold one.

    Example:
        >>> check_halves([0, 2], [1, 3])
        >>> check_halves([0, 1], [1, 2])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ramify.errors.RamifyError: 1 samples, such as 1, are in both halves of the data; ...
    """
    sets = {name: [int(n) for n in numbers] for name, numbers in zip(SIDES, (a, p), strict=True)}
    for name, numbers in sets.items():
        if not numbers:
            raise RamifyError(f"the {name} half of the data is empty; divide it by ramify's halves")
        if len(set(numbers)) < len(numbers):
            twice = next(n for n in numbers if numbers.count(n) > 1)
            raise RamifyError(f"the {name} half of the data holds sample {twice} more than once")
    both = set(sets["first"]) & set(sets["second"])
    if both:
        raise RamifyError(
            f"{len(both)} samples, such as {min(both)}, are in both halves of the data; the search "
            "needs halves that do not overlap, as ramify.relax.halves gives"
        )


@dataclass(frozen=True)
class Pairs:
    """Batches of both halves side by side: called with an epoch's number it gives that epoch.

    An epoch goes once through the half of more batches; the other begins again where it ends.

    Attributes:
        a: The batches of D_a: a list, a `DataLoader`, or a function of the epoch's number.
        p: Those of D_p.

    Raises:
        RamifyError: a half gives no batch, or ends after one pass.

    Example:
        >>> pairs = Pairs([1, 2, 3], lambda epoch: [10 * epoch])
        >>> list(pairs(4)), len(pairs)
        ([(1, 40), (2, 40), (3, 40)], 3)
    """

    a: Data
    p: Data

    def __call__(self, epoch: int) -> Iterator[tuple[Any, Any]]:
        """The pairs of one epoch: as many as :func:`len` says.

        Args:
            epoch: its number, from 0.

        Returns:
            Iterator of a batch of D_a and one of D_p.
        """
        count = len(self)
        sides = (
            _endless(data, epoch, side) for data, side in zip((self.a, self.p), SIDES, strict=True)
        )
        return itertools.islice(zip(*sides, strict=True), count)

    def __len__(self) -> int:
        """Pairs of an epoch."""
        return self._length

    @cached_property
    def _length(self) -> int:
        counts = [_count(data) for data in (self.a, self.p)]
        for count, side in zip(counts, SIDES, strict=True):
            if not count:
                raise _no_batch(side)
        return max(counts)


def _of_epoch(data: Data, epoch: int) -> Iterable[Any]:
    return data(epoch) if callable(data) else data


def _endless(data: Data, epoch: int, side: str) -> Iterator[Any]:
    while True:
        empty = True
        for batch in _of_epoch(data, epoch):
            empty = False
            yield batch
        if empty:
            raise _no_batch(side)


def _no_batch(side: str) -> RamifyError:
    return RamifyError(
        f"the {side} half of the data gave no batch; give a list, a DataLoader or a function of "
        "the epoch, not an iterator that ends after one pass"
    )


def _count(data: Data) -> int:
    first = _of_epoch(data, 0)
    known = number_of_batches(first)
    return sum(1 for _ in first) if known is None else known
