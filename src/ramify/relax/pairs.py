"""The two halves of the data in a search: disjoint, checked, and in pairs of batches."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ramify.errors import RamifyError
from ramify.probe.loss import number_of_batches

Data = Iterable[Any] | Callable[[int], Iterable[Any]]
"""Batches: a list, a ``DataLoader``, or a function of the epoch\'s number that returns them."""
SIDES = ("first", "second")


def halves(count: int, seed: int, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """Split sample indices at random into two disjoint sets.

    Args:
        count: the number of samples.
        seed: the seed of the split; the same seed gives the same split on every rank.
        share: the share of the first set.

    Returns:
        The indices in D_a and those in D_p, in ascending order, int64: (S_a,) and (S_p,).

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
    """Check that two sets of sample indices are valid halves for a search.

    Args:
        a: the indices in D_a.
        p: the indices in D_p.

    Raises:
        RamifyError: a set is empty or has an index twice, or both have the same index.

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
            twice = next(n for n, count in Counter(numbers).items() if count > 1)
            raise RamifyError(f"the {name} half of the data holds sample {twice} more than once")
    both = set(sets["first"]) & set(sets["second"])
    if both:
        raise RamifyError(
            f"{len(both)} samples, such as {min(both)}, are in both halves of the data; the search "
            "needs halves that do not overlap, as ramify.relax.halves gives"
        )


@dataclass(frozen=True)
class Pairs:
    """Pairs of batches of both halves; called with an epoch's number it gives that epoch.

    An epoch iterates once over the half with more batches; the other half restarts when it ends.

    Attributes:
        a: The batches of D_a: a list, a `DataLoader`, or a function of the epoch's number.
        p: The batches of D_p, likewise.

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
        """The pairs of one epoch, :func:`len` of them.

        Args:
            epoch: its number, from 0.

        Returns:
            Iterator over pairs of a batch of D_a and one of D_p.
        """
        count = len(self)
        sides = (
            _endless(data, epoch, side) for data, side in zip((self.a, self.p), SIDES, strict=True)
        )
        return itertools.islice(zip(*sides, strict=True), count)

    def __len__(self) -> int:
        """The number of pairs per epoch."""
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
