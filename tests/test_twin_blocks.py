"""Even parts and pools that are made block by block, against torch's own operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ramify.probe.displaced import even
from ramify.probe.displaced.even import Even, Halves, Rectified, Whole
from ramify.probe.displaced.tensor import Twin, rectified
from ramify.probe.displaced.tiles import largest, pooled, tile_of


def plain(kind: type[Even], *parts: Tensor) -> Tensor:
    if kind is Whole:
        return parts[0]
    if kind is Halves:
        return (parts[0] + parts[1]) / 2 - parts[2]
    odd, base = parts
    return ((base + odd).relu() + (base - odd).relu()) / 2 - base.relu()


@pytest.fixture(params=[7, 2**17], ids=["many blocks", "one block"], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(even, "BLOCK", request.param)


@pytest.mark.parametrize(("kind", "count"), [(Whole, 1), (Halves, 3), (Rectified, 2)])
@pytest.mark.parametrize(("rows", "dim"), [(0, 1), (1, 0), (2, 1), (None, 0), (None, 2)])
def test_even_parts_are_written_and_summed(
    kind: type[Even], count: int, rows: int | None, dim: int
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
    assert torch.allclose(made.written(), expected, atol=1e-14)
    assert torch.allclose(dots, sums, atol=1e-13)
    mine = torch.autograd.grad((dots * slopes).sum() + (made.written() * weight).sum(), moving)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-14)


@pytest.mark.parametrize("tile", [(2, 2), (3, 2), (1, 4), (5, 1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_tiles_are_pooled_as_torch_does(tile: tuple[int, int], sign: int) -> None:
    """Whole numbers, so that most windows hold several largest: the slope goes to the first."""
    moving, held = (torch.randint(-2, 3, (4, 3, 7, 9)).double() for _ in range(2))
    moving.requires_grad_()
    for base in (held, None):
        whole = moving if base is None else base + sign * moving
        theirs = max_pool2d(whole, tile)
        mine = largest(moving, base, 1 if base is None else sign, tile)
        assert torch.equal(mine, theirs)
        weight = torch.randn_like(theirs)
        one, other = (torch.autograd.grad((p * weight).sum(), moving)[0] for p in (mine, theirs))
        assert torch.equal(one, other)


@pytest.mark.parametrize("which", ["plus", "minus"])
def test_a_relu_and_a_pool_change_places(which: str) -> None:
    base, odd = torch.randn(4, 3, 6, 8).double(), torch.randn(4, 3, 6, 8).double()
    odd.requires_grad_()
    straight = Twin.straight(base, lambda: odd)
    mine = pooled(rectified(straight, base.relu()), which, (2, 2))
    theirs = max_pool2d((base + odd if which == "plus" else base - odd).relu(), 2)
    weight = torch.randn_like(theirs)
    assert torch.equal(mine, theirs)
    one, other = (torch.autograd.grad((p * weight).sum(), odd)[0] for p in (mine, theirs))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("args", "size", "tile"),
    [
        (([2, 2],), (6, 8), (2, 2)),
        (([2],), (6, 8), (2, 2)),
        (([2, 2],), (7, 9), (2, 2)),
        (([3, 2], [3, 2]), (6, 8), (3, 2)),
        (([2, 2], [], [0, 0], [1, 1], True), (6, 8), (2, 2)),
        (([2, 2], [], [0, 0], [1, 1], True), (7, 8), None),  # a window over the edge
        (([3, 3], [2, 2]), (7, 9), None),  # windows that overlap
        (([2, 2], [3, 3]), (7, 9), None),  # gaps between them
        (([2, 2], [2, 2], [1, 1]), (6, 8), None),
        (([2, 2], [2, 2], [0, 0], [2, 2]), (6, 8), None),
    ],
)
def test_only_windows_side_by_side_are_tiles(
    args: tuple[object, ...], size: tuple[int, int], tile: tuple[int, int] | None
) -> None:
    image = torch.randn(2, 3, *size)
    value, _ = torch.ops.aten.max_pool2d_with_indices(image, *args)
    twin = Twin.straight(image, lambda: image)
    assert tile_of((twin, *args), value) == tile
    if tile is not None:
        assert torch.equal(largest(image, None, 1, tile), value)
