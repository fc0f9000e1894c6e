"""Max-pools of two by two pixels behind linear operations: torch's own take many times as long.

Shape letters: `H`, `W` height and width of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ramify.probe.displaced.even import blocks
from ramify.probe.displaced.tensor import DisplacedTensor

MAX_POOL = "aten::max_pool2d_with_indices"


def is_halving(args: Sequence[Any]) -> bool:
    """Whether a pool takes the largest of every two by two pixels of an image of even size.

    Args:
        args: of the operation `MAX_POOL`, its input displaced.

    Returns:
        Whether it does, on a CPU; other devices have fast pools.
    """
    x = args[0].base
    kernel, stride, padding, dilation = (
        set(args[place]) if len(args) > place else set() for place in range(1, 5)
    )
    plain = kernel == {2} and stride <= {2} and padding <= {0} and dilation <= {1}
    even = x.shape[-1] % 2 == 0 and x.shape[-2] % 2 == 0
    return plain and even and x.device.type == "cpu"


def halved(x: DisplacedTensor, base: Tensor) -> DisplacedTensor | None:
    """The pool of a displaced tensor.

    The largest of some ReLUs is the ReLU of the largest, so that a pool behind a ReLU is taken
    first, and the ReLU of what is left, a quarter of it.

    Args:
        x: its argument.
        base: its value in the network as it is.

    Returns:
        Its value in the displaced networks; None where neither the argument is linear in the
        displacement nor what a ReLU made it of.
    """
    linear = x if x.is_linear else x.rectified
    if linear is None:
        return None
    found: list[tuple[Tensor, Tensor]] = []

    def copy(place: int) -> Tensor:
        if not found:
            found.append(_Largest.apply(linear.odd, linear.base))
        largest = found[0][place]
        return largest if linear is x else largest.relu()

    return DisplacedTensor.of_copies(base, lambda: copy(0), lambda: copy(1))


class _Largest(torch.autograd.Function):
    """The largest of every two by two pixels of base + u and of base − u.

    Made block by block: neither the sums nor where the largest were is kept.
    """

    @staticmethod
    def forward(ctx: Any, odd: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(odd, base)
        parts = [
            (_across(_down(held + moved)), _across(_down(held - moved)))
            for moved, held in blocks(odd, base)
        ]
        plus, minus = zip(*parts, strict=True)
        return torch.cat(plus), torch.cat(minus)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        odd, base = ctx.saved_tensors
        slope = torch.empty_like(odd)
        for cut, moved, held, plus, minus in blocks(slope, odd, base, *gradients):
            _spread(plus, held + moved, cut)
            other = torch.empty_like(cut)
            _spread(minus, held - moved, other)
            cut.sub_(other)
        return slope, None


def _rows(image: Tensor) -> tuple[Tensor, Tensor]:
    """The upper and the lower row of every pair: (..., H / 2, W)."""
    upper, lower = image.unflatten(-2, (-1, 2)).unbind(-2)
    return upper, lower


def _columns(image: Tensor) -> tuple[Tensor, Tensor]:
    """The left and the right column of every pair: (..., H, W / 2)."""
    left, right = image.unflatten(-1, (-1, 2)).unbind(-1)
    return left, right


def _down(image: Tensor) -> Tensor:
    return torch.maximum(*_rows(image))


def _across(image: Tensor) -> Tensor:
    return torch.maximum(*_columns(image))


def _spread(gradient: Tensor, image: Tensor, into: Tensor) -> None:
    """Write the gradient of every tile to its largest pixel, and 0 to the others."""
    rows = _down(image)
    within = torch.empty_like(rows)
    _share(gradient, _columns(rows), _columns(within))
    _share(within, _rows(image), _rows(into))


def _share(gradient: Tensor, pair: tuple[Tensor, Tensor], into: tuple[Tensor, Tensor]) -> None:
    """Write a gradient to the larger of a pair, to the first of equals, and 0 to the other."""
    first, second = pair
    there = torch.ops.aten.threshold_backward(gradient, second - first, 0.0)
    into[1].copy_(there)
    torch.sub(gradient, there, out=into[0])
