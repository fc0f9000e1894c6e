"""Pools of two by two pixels in both displaced networks, against torch's own pool and autograd."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ramify.probe.displaced import even
from ramify.probe.displaced.max_pools import halved, is_halving
from ramify.probe.displaced.tensor import DisplacedTensor, relu

SHAPES = [(3, 4, 6, 8), (4, 6, 2)]


@pytest.fixture(params=[20, 2**17], ids=["many blocks", "one block"], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(even, "BLOCK", request.param)


def displaced(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, DisplacedTensor]:
    torch.manual_seed(0)
    base, odd = torch.randn(2, *shape).to(dtype)
    odd.requires_grad_()
    return base, odd, DisplacedTensor.linear(base, lambda: odd)


@pytest.mark.parametrize("behind_relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_both_copies_and_their_slopes_are_torchs(
    shape: tuple[int, ...], behind_relu: bool, dtype: torch.dtype
) -> None:
    base, odd, x = displaced(shape, dtype)
    act = torch.relu if behind_relu else lambda tensor: tensor
    pooled = halved(relu(x, base.relu()) if behind_relu else x, max_pool2d(act(base), 2))
    assert pooled is not None
    theirs = [max_pool2d(act(base + sign * odd), 2) for sign in (1, -1)]
    weights = torch.randn(2, *theirs[0].shape).to(dtype)
    for mine, true in zip((pooled.plus, pooled.minus), theirs, strict=True):
        assert torch.equal(mine, true)
    totals = [
        sum((w * copy).sum() for w, copy in zip(weights, copies, strict=True))
        for copies in (theirs, (pooled.plus, pooled.minus))
    ]
    true, mine = (torch.autograd.grad(total, odd)[0] for total in totals)
    assert torch.allclose(true, mine)


def test_a_pool_of_what_is_neither_linear_nor_a_relu_is_left_to_torch() -> None:
    base, odd, _ = displaced(SHAPES[0])
    copies = DisplacedTensor.of_copies(base, lambda: base + odd, lambda: base - odd)
    assert halved(copies, max_pool2d(base, 2)) is None


@pytest.mark.parametrize(
    ("settings", "halves"),
    [
        (([2, 2],), True),
        (([2, 2], [2, 2]), True),
        (([2], [], [0], [1]), True),
        (([3, 3], [2, 2]), False),
        (([2, 2], [1, 1]), False),
        (([2, 2], [2, 2], [1, 1]), False),
        (([2, 2], [2, 2], [0, 0], [2, 2]), False),
    ],
)
def test_only_windows_side_by_side_are_halvings(
    settings: tuple[list[int], ...], halves: bool
) -> None:
    x = SimpleNamespace(base=torch.randn(1, 1, 4, 4))
    assert is_halving((x, *settings)) is halves
    assert not is_halving((SimpleNamespace(base=torch.randn(1, 1, 5, 4)), *settings))
