"""The halves of the data: disjoint, whole, the same everywhere; pairs of their batches."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from ramify import RamifyError
from ramify.relax import Pairs, check_halves, halves
from ramify.relax.pairs import Data


@pytest.mark.parametrize("count, share", [(2, 0.5), (7, 0.5), (100, 0.8), (101, 0.01)])
def test_halves_are_a_partition(count: int, share: float) -> None:
    a, p = halves(count, seed=1, share=share)
    assert len(a) == round(count * share)
    assert sorted([*a.tolist(), *p.tolist()]) == list(range(count))
    check_halves(a, p)


def test_halves_hang_on_the_seed_alone() -> None:
    one = halves(50, seed=1)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    two = halves(50, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))
    assert not torch.equal(one[0], halves(50, seed=2)[0])


@pytest.mark.parametrize("count, share", [(1, 0.5), (10, 0.0), (10, 1.0), (10, 0.01)])
def test_an_empty_half_is_refused(count: int, share: float) -> None:
    with pytest.raises(RamifyError, match="leaves one half empty"):
        halves(count, seed=0, share=share)


@pytest.mark.parametrize(
    "a, p, says",
    [
        ([0, 1, 2], [3, 2, 0], "2 samples, such as 0, are in both halves"),
        ([0, 1, 1], [2], "first half of the data holds sample 1 more than once"),
        ([0], torch.tensor([2, 2]), "second half of the data holds sample 2"),
        ([], [1], "first half of the data is empty"),
    ],
)
def test_wrong_halves_are_refused(a: list[int], p: list[int], says: str) -> None:
    with pytest.raises(RamifyError, match=says):
        check_halves(a, p)


def test_pairs_go_once_through_the_longer_half() -> None:
    pairs = Pairs(lambda epoch: [epoch, epoch + 1], [10, 20, 30])
    assert list(pairs(5)) == [(5, 10), (6, 20), (5, 30)]
    assert len(pairs) == 3


def test_pairs_of_loaders_and_of_streams() -> None:
    loader = DataLoader(list(range(6)), batch_size=2)
    pairs = Pairs(loader, lambda epoch: (n for n in range(4)))
    assert len(pairs) == 4
    assert [p for _, p in pairs(0)] == [0, 1, 2, 3]
    assert [a.tolist() for a, _ in pairs(1)] == [[0, 1], [2, 3], [4, 5], [0, 1]]


@pytest.mark.parametrize("a, p, side", [([], [1], "first"), ([1], lambda epoch: [], "second")])
def test_a_half_without_batches_is_refused(a: list[int], p: list[int], side: str) -> None:
    with pytest.raises(RamifyError, match=f"the {side} half of the data gave no batch"):
        list(Pairs(a, p)(0))


@pytest.mark.parametrize("p", [iter([1, 2]), lambda epoch: [] if epoch else [1, 2]])
def test_a_half_that_ends_later_is_refused(p: Data) -> None:
    """It gave batches when they were counted, and gives none when they are wanted."""
    with pytest.raises(RamifyError, match="the second half of the data gave no batch"):
        list(Pairs([1, 2, 3], p)(1))
