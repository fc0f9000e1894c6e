"""EvenPart parts and pools that are made block by block, against torch's own operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ramify.probe.displaced import even
from ramify.probe.displaced.even import EvenOfCopies, EvenOfReLU, EvenPart, EvenTensor


def plain(kind: type[EvenPart], *parts: Tensor) -> Tensor:
    if kind is EvenTensor:
        return parts[0]
    if kind is EvenOfCopies:
        return (parts[0] + parts[1]) / 2 - parts[2]
    odd, base = parts
    return ((base + odd).relu() + (base - odd).relu()) / 2 - base.relu()


@pytest.fixture(params=[7, 2**17], ids=["many blocks", "one block"], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(even, "BLOCK", request.param)


@pytest.mark.parametrize(("kind", "count"), [(EvenTensor, 1), (EvenOfCopies, 3), (EvenOfReLU, 2)])
@pytest.mark.parametrize(("rows", "dim"), [(0, 1), (1, 0), (2, 1), (None, 0), (None, 2)])
def test_even_parts_are_written_and_summed(
    kind: type[EvenPart], count: int, rows: int | None, dim: int
) -> None:
    parts = [torch.randn(5, 3, 4, 2).double() for _ in range(count)]
    right, weight = torch.randn(5, 3, 4, 2).double(), torch.randn(5, 3, 4, 2).double()
    shape = (1 if rows is None else parts[0].shape[rows], parts[0].shape[dim])
    slopes = torch.randn(shape).double()
    moving = [part.requires_grad_() for part in parts[: kind.moving]]
    expected = plain(kind, *parts)
    over = [d for d in range(4) if d not in (rows, dim)]
    sums = (expected * right).sum(over)
    sums = sums.unsqueeze(0) if rows is None else sums if rows < dim else sums.T
    total = (sums * slopes).sum() + (expected * weight).sum()
    theirs = torch.autograd.grad(total, moving)
    made = kind(tuple(parts))
    dots = made.dot(right, rows, dim)
    assert torch.allclose(made.tensor(), expected, atol=1e-14)
    assert torch.allclose(dots, sums, atol=1e-13)
    mine = torch.autograd.grad((dots * slopes).sum() + (made.tensor() * weight).sum(), moving)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-14)
