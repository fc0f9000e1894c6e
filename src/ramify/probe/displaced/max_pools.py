"""Max-pools of 2×2 pixels after linear operations, several times faster than torch's own.

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
    """Whether a pool takes the largest of every 2×2 pixels of an image of even size.

    Args:
        args: the arguments of the operation `MAX_POOL`, with a displaced input.

    Returns:
        Whether it does, on a CPU; on other devices torch's pools are fast.
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

    The maximum of several ReLUs is the ReLU of the maximum, so after a ReLU the pool is computed
    first, and then the ReLU of the result, a quarter of the size.

    Args:
        x: its argument.
        base: its value in the unedited network.

    Returns:
        Its value in the displaced networks; None if the argument is neither linear in the
        displacement nor the ReLU of a linear tensor.
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
    """The largest of every 2×2 pixels of base + u and of base − u.

    Computed block by block. The saved tensors are the differences of the lower and the upper pixel
    of every pair, and of the right and the left of the larger ones: half and a quarter of an image
    for each sign, from which the gradients are computed without the sums.
    """

    @staticmethod
    def forward(ctx: Any, odd: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
        keeps = ctx.needs_input_grad[0]
        parts = [
            (_tiles(held + moved, keeps), _tiles(held - moved, keeps))
            for moved, held in blocks(odd, base)
        ]
        ctx.shape = odd.shape
        ctx.kept = [(plus[1:], minus[1:]) for plus, minus in parts]
        return torch.cat([plus[0] for plus, _ in parts]), torch.cat(
            [minus[0] for _, minus in parts]
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        slope = gradients[0].new_empty(ctx.shape)
        cuts = blocks(slope, *gradients)
        for (cut, plus, minus), (above, below) in zip(cuts, ctx.kept, strict=True):
            _spread(plus, above, cut)
            other = torch.empty_like(cut)
            _spread(minus, below, other)
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


def _tiles(image: Tensor, keeps: bool) -> tuple[Tensor, ...]:
    """The largest pixel of every tile, and optionally the differences that tell which it is."""
    upper, lower = _rows(image)
    rows = torch.maximum(upper, lower)
    left, right = _columns(rows)
    largest = torch.maximum(left, right)
    return (largest, lower - upper, right - left) if keeps else (largest,)


def _side_by_side(left: Tensor, right: Tensor) -> Tensor:
    """Two tensors interleaved entry by entry: (..., 2 W)."""
    if left.dtype in (torch.float32, torch.float64):  # as parts of complex numbers: one fast pass
        return torch.view_as_real(torch.complex(left, right)).flatten(-2)
    return torch.stack((left, right), -1).flatten(-2)


def _spread(gradient: Tensor, more: Sequence[Tensor], into: Tensor) -> None:
    """Write the gradient of every tile to its largest pixel, and 0 to the others.

    Args:
        gradient: (..., H / 2, W / 2).
        more: the lower minus the upper pixel of every pair of rows, (..., H / 2, W), and the right
            minus the left of the larger ones, (..., H / 2, W / 2).
        into: (..., H, W).
    """
    down, across = more
    right = torch.ops.aten.threshold_backward(gradient, across, 0.0)
    within = _side_by_side(gradient - right, right)
    lower = torch.ops.aten.threshold_backward(within, down, 0.0)
    upper_rows, lower_rows = _rows(into)
    lower_rows.copy_(lower)
    torch.sub(within, lower, out=upper_rows)
