r"""Batch norms of a cut network: correct statistics, with the output moments of before.

The output of a refitted layer is closer to its own mean than the original output, as in any
least-squares fit, and so are the outputs of later layers and the logits. With the moments m and v
of a norm's input on the sample in the full network, and m' and v' in the cut one,

.. math:: \gamma' = \gamma \sqrt{\tfrac{v + \epsilon}{\hat v + \epsilon}}, \qquad
          \beta' = \beta + \gamma \, \frac{m - \hat m}{\sqrt{\hat v + \epsilon}}

and the statistics :math:`m', v'` instead of :math:`\hat m, \hat v`, every channel has the mean and
the deviation that it had in the full network, in training as in evaluation. Where nothing was lost,
the function is unchanged.

Source: K. Jordan and others, "REPAIR: renormalizing permuted activations for interpolation repair",
2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ramify import distributed
from ramify.refit.readers import Norm


@dataclass(frozen=True)
class FullNorm:
    """A norm in the full network, with only the remaining channels.

    Attributes:
        mean: (C,), its running mean.
        variance: (C,), its running variance.
        scale: (C,); ones if it has none.
        shift: (C,); zeros if it has none.
        seen_mean: (C,), the moments of its input on the sample.
        seen_variance: (C,).
    """

    mean: Tensor
    variance: Tensor
    scale: Tensor
    shift: Tensor
    seen_mean: Tensor
    seen_variance: Tensor


class Spread:
    """Mean and variance of each channel, summed over batches in double precision."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Add a batch (N, C, *space)."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = torch.tensor(x.numel() // x.shape[1], dtype=torch.float64)
        # One pass through memory; var_mean is ten times slower.
        mean, variance = torch.batch_norm_update_stats(wide, None, None, 0.0)
        mean, variance = mean.double(), variance.double()
        own = [count, count * mean, count * (variance + mean.square())]
        self._sums = [a + b for a, b in zip(self._sums, own, strict=True)] if self._sums else own

    def moments(self) -> tuple[Tensor, Tensor]:
        """(C,) mean and variance over all ranks' batches, the variance as norms compute it."""
        count, total, squares = distributed.all_sum(self._sums)
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        return mean, variance * count / (count - 1).clamp_min(1)


def hold(tensors: Mapping[str, Tensor], norm: Norm, full: FullNorm, now: Spread) -> None:
    """Give a norm the statistics of its input, and restore the moments of its channels.

    Args:
        tensors: parameters and buffers by name, of the cut network.
        norm: the names of its tensors.
        full: the norm in the full network, with the remaining channels.
        now: the moments of its input in the cut network.
    """
    mean, variance = (part.to(full.mean) for part in now.moments())
    if norm.scale is None or norm.shift is None:
        # Only its statistics can be changed: they are moved from those of the full network.
        wider = (variance + norm.eps) / (full.seen_variance + norm.eps)
        mean = mean - (full.seen_mean - full.mean) * wider.sqrt()
        variance = ((full.variance + norm.eps) * wider - norm.eps).clamp_min(0)
    else:
        deviation = (full.variance + norm.eps).rsqrt()
        scale = full.scale * deviation * (full.seen_variance + norm.eps).sqrt()
        shift = full.shift + full.scale * deviation * (full.seen_mean - full.mean)
        tensors[norm.scale].detach().copy_(scale)
        tensors[norm.shift].detach().copy_(shift)
    tensors[norm.mean].detach().copy_(mean)
    tensors[norm.variance].detach().copy_(variance)


def slope_of(tensors: Mapping[str, Tensor], norm: Norm) -> Tensor:
    """(C,) the factor by which a norm multiplies each channel."""
    variance = tensors[norm.variance].detach().double()
    slope = torch.rsqrt(variance + norm.eps)
    return slope if norm.scale is None else slope * tensors[norm.scale].detach().double()
