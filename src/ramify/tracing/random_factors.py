"""Operations that multiply by random numbers, as a draw and a product.

The results of a draw are kept, so that a replay of a recorded pass repeats them. The result of
dropout or RReLU must not be kept in this way, because it depends on the input. So these operations
are recorded as several, which is how torch itself computes dropout on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _dropout(x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    if train is False:
        return x.clone(), torch.ones_like(x, dtype=torch.bool)
    kept = torch.empty_like(x).bernoulli_(1 - p)
    return x * (kept / (1 - p) if p < 1 else kept), kept.to(torch.bool)


def _rrelu(
    x: Tensor,
    noise: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    if not training:
        return aten.leaky_relu(x, (lower + upper) / 2)
    drawn = torch.empty_like(x).uniform_(lower, upper, generator=generator)
    # Autograd's backward pass takes the slopes from `noise`.
    return x * noise.copy_(torch.where(x > 0, 1.0, drawn))


def _rrelu_in_place(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x.copy_(_rrelu(x, *args, **kwargs))


WRITTEN_OUT: dict[Any, Callable[..., Any]] = {
    aten.native_dropout.default: _dropout,
    aten.rrelu_with_noise.default: _rrelu,
    aten.rrelu_with_noise_.default: _rrelu_in_place,
}
"""By operation, a function of the same arguments that computes it by several others."""
