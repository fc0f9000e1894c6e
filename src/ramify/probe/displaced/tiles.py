"""Max-pools whose windows lie side by side: on a CPU torch's own take many times as long."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ramify.probe.displaced.even import blocks
from ramify.probe.displaced.tensor import Twin

POOL = "aten::max_pool2d_with_indices"
Tile = tuple[int, int]


def tile_of(args: Sequence[Any], value: Tensor) -> Tile | None:
    """Height and width of a max-pool's windows, where they lie side by side within the image.

    Args:
        args: of the operation `POOL`, its input a twin.
        value: what it gives.

    Returns:
        Height and width; None for any other pool, and away from the CPU.
    """
    kernel, stride, padding, dilation = (
        tuple(args[n]) if len(args) > n else () for n in range(1, 5)
    )
    height, width = kernel * (2 // len(kernel))
    aside = (stride or kernel) * (2 // len(stride or kernel)) == (height, width)
    fits = all(
        count * size <= whole
        for count, size, whole in zip(
            value.shape[-2:], (height, width), args[0].base.shape[-2:], strict=True
        )
    )
    plain = not any(padding) and all(step == 1 for step in dilation)
    return (height, width) if aside and fits and plain and value.device.type == "cpu" else None


def pooled(x: Twin, which: str, tile: Tile) -> Tensor:
    """The max-pool of one copy; that of a ReLU is the ReLU of that of its argument, being smaller.

    Args:
        x: what is pooled.
        which: `plus` or `minus`.
        tile: height and width of a window.

    Returns:
        The pool's value.
    """
    if x.before is not None:
        return pooled(x.before, which, tile).relu()
    if x.is_straight:
        return largest(x.odd, x.base, 1 if which == "plus" else -1, tile)
    return largest(x.plus if which == "plus" else x.minus, None, 1, tile)


def largest(moving: Tensor, held: Tensor | None, sign: int, tile: Tile) -> Tensor:
    """The largest number of every tile of `held + sign · moving`, or of `moving` alone.

    Args:
        moving: (..., H, W).
        held: of the same shape; no slope goes there.
        sign: 1 or −1, of what moves.
        tile: height and width of a tile.

    Returns:
        (..., H // height, W // width); as in torch, a slope goes to the first of equals.
    """
    return _Largest.apply(moving, held, sign, tile)


class _Largest(torch.autograd.Function):
    """Made block by block: neither the sum nor where the largest were is kept."""

    @staticmethod
    def forward(ctx: Any, moving: Tensor, held: Tensor | None, sign: int, tile: Tile) -> Tensor:
        ctx.sign, ctx.tile = sign, tile
        ctx.save_for_backward(moving, held)
        given = (moving,) if held is None else (moving, held)
        found = []
        for each in blocks(*given):
            across = _most(_pieces(_whole(each, sign, tile), -1, tile[1]))
            found.append(_most(_pieces(across, -2, tile[0])))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        height, width = ctx.tile
        moving, held = ctx.saved_tensors
        given = (moving,) if held is None else (moving, held)
        (gradient,) = gradients
        slope = torch.empty_like(moving)
        if slope.shape[-2:] != (height * gradient.shape[-2], width * gradient.shape[-1]):
            slope.zero_()  # what no tile covers
        for cut, mine, *each in blocks(slope, gradient, *given):
            places = _pieces(_whole(each, ctx.sign, ctx.tile), -1, width)
            across = _most(places)
            down = torch.empty_like(across)
            lines = _pieces(across, -2, height)
            _share(mine * ctx.sign, lines, _most(lines), _pieces(down, -2, height))
            _share(down, places, across, _pieces(_covered(cut, ctx.tile), -1, width))
        return slope, None, None, None


def _covered(image: Tensor, tile: Tile) -> Tensor:
    """What tiles cover."""
    height, width = (
        whole // size * size for whole, size in zip(image.shape[-2:], tile, strict=True)
    )
    return image[..., :height, :width]


def _whole(given: Sequence[Tensor], sign: int, tile: Tile) -> Tensor:
    """What is pooled."""
    moving, *held = (_covered(image, tile) for image in given)
    return torch.add(held[0], moving, alpha=sign) if held else moving


def _pieces(tensor: Tensor, dim: int, size: int) -> Sequence[Tensor]:
    """What lies at the first, second, ... place of every tile."""
    return tensor.unflatten(dim, (-1, size)).unbind(dim)


def _most(pieces: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.maximum, pieces)


def _share(
    gradient: Tensor, pieces: Sequence[Tensor], most: Tensor, into: Sequence[Tensor]
) -> None:
    """Write each gradient to the first of the pieces that holds the most, and 0 to the others."""
    for piece, place in zip(pieces[:-1], into[:-1], strict=True):
        torch.mul(gradient, piece == most, out=place)
        gradient = gradient - place
    into[-1].copy_(gradient)
