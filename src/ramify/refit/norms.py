r"""Batch norms of a cut network: the statistics that they really have, their function held.

A refitted layer puts out another variance than the old one did. A norm behind it that still held
the old statistics would do another thing in training than in evaluation; with

.. math:: \gamma' = \gamma \sqrt{\tfrac{v' + \epsilon}{v + \epsilon}}, \qquad
          \beta' = \beta + \gamma \, \frac{m' - m}{\sqrt{v + \epsilon}}

and the statistics :math:`m', v'` of the cut network, evaluation is what it was and training agrees.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ramify import distributed
from ramify.refit.readers import Norm


class Spread:
    """Mean and variance of each channel, summed over batches in double precision."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Add a batch (N, C, *space)."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = torch.tensor(x.numel() // x.shape[1], dtype=torch.float64)
        # One pass through memory; var_mean takes ten times as long.
        mean, variance = torch.batch_norm_update_stats(wide, None, None, 0.0)
        mean, variance = mean.double(), variance.double()
        own = [count, count * mean, count * (variance + mean.square())]
        self._sums = [a + b for a, b in zip(self._sums, own, strict=True)] if self._sums else own

    def moments(self) -> tuple[Tensor, Tensor]:
        """(C,) mean and variance over every rank's batches, the variance as norms count it."""
        count, total, squares = distributed.all_sum(self._sums)
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        return mean, variance * count / (count - 1).clamp_min(1)


def hold(tensors: Mapping[str, Tensor], norm: Norm, spread: Spread) -> None:
    """Give a norm the statistics of its input, and change its scale and shift to suit.

    A norm without scale or shift could not stay the same function, and is left as it is.

    Args:
        tensors: parameters and buffers by name.
        norm: the tensors that it holds.
        spread: of its input.
    """
    if norm.scale is None or norm.shift is None:
        return
    new_mean, new_variance = spread.moments()
    names = (norm.mean, norm.variance, norm.scale, norm.shift)
    mean, variance, scale, shift = (tensors[name].detach() for name in names)
    before = slope_of(tensors, norm)
    new_mean, new_variance = new_mean.to(before), new_variance.to(before)
    new_shift = shift.double() + before * (new_mean - mean.double())
    new_scale = before * (new_variance + norm.eps).sqrt()
    for tensor, value in zip(
        (mean, variance, scale, shift),
        (new_mean, new_variance, new_scale, new_shift),
        strict=True,
    ):
        tensor.copy_(value)


def slope_of(tensors: Mapping[str, Tensor], norm: Norm) -> Tensor:
    """(C,) what a norm multiplies each channel by."""
    variance = tensors[norm.variance].detach().double()
    slope = torch.rsqrt(variance + norm.eps)
    return slope if norm.scale is None else slope * tensors[norm.scale].detach().double()
