"""Even parts as the tensors they depend on: to sum one, it need not be materialised.

Values are computed in blocks small enough for the processor cache: one pass over the parts, however
many operations there are in between.

Shape letters: `S` samples, `W` channels of a group.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**17
"""Numbers in a block: several float32 blocks fit into the cache of one core."""


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors of one length along their first dimension; whole if that does not help.

    Args:
        *tensors: the first of them sets the block length.

    Yields:
        One block of each tensor.
    """
    first = tensors[0]
    # Other devices, scalars and small tensors gain nothing from blocks.
    if first.device.type != "cpu" or not first.dim() or first.numel() <= BLOCK:
        yield tensors
        return
    length = max(1, BLOCK * len(first) // first.numel())
    yield from zip(*(tensor.split(length) for tensor in tensors), strict=True)


@dataclass(frozen=True)
class EvenPart(abc.ABC):
    """Half the sum of two copies of a tensor, minus the tensor.

    Attributes:
        made_of: the tensors it is a function of, all of its shape.
        moving: how many of them, from the first on, depend on the displacement; the gradients with
            respect to these are equal.
        share: a constant factor of the even part, which is cheaper to apply to sums than to
            entries.
        bends: whether its derivative in the moving tensors differs from `share` anywhere.
    """

    made_of: tuple[Tensor, ...]

    moving = 1
    share = 1.0
    bends = False

    @staticmethod
    @abc.abstractmethod
    def value(*parts: Tensor) -> Tensor:
        """The even part over `share`, as a new tensor or one of the parts."""

    @staticmethod
    @abc.abstractmethod
    def slope(gradient: Tensor, parts: Sequence[Tensor], into: Tensor) -> None:
        """Write the gradient of the moving tensors, from the even part's gradient times `share`."""

    @classmethod
    def product(cls, right: Tensor, parts: Sequence[Tensor], slope: Tensor | None) -> Tensor:
        """The even part times another tensor, divided by `share`.

        Args:
            right: the other tensor.
            parts: the tensors that the even part depends on.
            slope: receives the product's derivative in the moving tensors, over `share`; None if it
                is not needed, or is `right`.

        Returns:
            The product.
        """
        value = cls.value(*parts)
        if value is parts[0] or value.dtype is not right.dtype:
            return value * right
        return value.mul_(right)

    def against(self, gradient: Tensor) -> tuple[EvenPart, Tensor]:
        """What to sum by sample and channel, and the factor to multiply it by."""
        return self, gradient

    def tensor(self) -> Tensor:
        """The materialised even part, differentiable in the moving tensors."""
        return _Materialise.apply(type(self), *self.made_of)

    def dot(self, right: Tensor, rows: int | None, dim: int) -> Tensor:
        """⟨even part, right⟩ by sample and channel, differentiable in the moving tensors.

        Args:
            right: a tensor of the same shape; it gets no gradient.
            rows: the dimension of the samples; None: there is one sample.
            dim: the dimension of the channels.

        Returns:
            Shape (S, W), in float32 or wider.
        """
        keep = (dim,) if rows is None else (rows, dim)
        out = _Dot.apply(type(self), keep, right, *self.made_of)
        if rows is None:
            return out.unsqueeze(0)
        return out if rows < dim else out.T


class EvenTensor(EvenPart):
    """An even part that is already materialised."""

    @classmethod
    def of(cls, tensor: Tensor | None) -> EvenTensor | None:
        """The even part given as a tensor; None is zero."""
        return None if tensor is None else cls((tensor,))

    def tensor(self) -> Tensor:
        """The tensor itself."""
        return self.made_of[0]

    @staticmethod
    def value(*parts: Tensor) -> Tensor:
        """The tensor itself."""
        return parts[0]

    @staticmethod
    def slope(gradient: Tensor, parts: Sequence[Tensor], into: Tensor) -> None:
        """The gradient itself."""
        into.copy_(gradient)


class EvenOfCopies(EvenPart):
    """The even part of copies p and m of a tensor b: ½ (p + m) − b."""

    moving = 2
    share = 0.5

    @staticmethod
    def value(*parts: Tensor) -> Tensor:
        """Twice the even part: p + m − 2 b."""
        plus, minus, base = parts
        return (plus + minus).sub_(base, alpha=2)

    @staticmethod
    def slope(gradient: Tensor, parts: Sequence[Tensor], into: Tensor) -> None:
        """The given gradient, which includes the factor ½."""
        into.copy_(gradient)


class EvenOfReLU(EvenPart):
    """That of relu(b ± u): ½ [relu(b + u) + relu(b − u)] − relu(b) = ½ max(|u| − |b|, 0)."""

    share = 0.5
    bends = True

    @staticmethod
    def value(*parts: Tensor) -> Tensor:
        """max(|u| − |b|, 0)."""
        odd, base = parts
        return odd.abs().sub_(base.abs()).relu_()

    @staticmethod
    def slope(gradient: Tensor, parts: Sequence[Tensor], into: Tensor) -> None:
        """The given gradient, which includes the factor ½, times sign(u) where |u| > |b|."""
        odd, base = parts
        beyond = odd.abs().sub_(base.abs())
        there = torch.ops.aten.threshold_backward(gradient, beyond, 0.0)
        # A leaky ReLU of slope −1 has the sign as its derivative: one pass instead of two.
        torch.ops.aten.leaky_relu_backward.grad_input(there, odd, -1.0, False, grad_input=into)

    @classmethod
    def product(cls, right: Tensor, parts: Sequence[Tensor], slope: Tensor | None) -> Tensor:
        """The product and its slope, both computed from the same tensor."""
        odd, base = parts
        beyond = odd.abs().sub_(base.abs())
        there = torch.ops.aten.threshold_backward(right.to(beyond.dtype), beyond, 0.0)
        if slope is not None:
            torch.ops.aten.leaky_relu_backward.grad_input(there, odd, -1.0, False, grad_input=slope)
        return there.mul_(beyond)


class _Materialise(torch.autograd.Function):
    """Materialise an even part, block by block."""

    @staticmethod
    def forward(ctx: Any, kind: type[EvenPart], *parts: Tensor) -> Tensor:
        ctx.kind = kind
        ctx.save_for_backward(*parts)
        out = torch.empty_like(parts[0])
        for cut, *each in blocks(out, *parts):
            torch.mul(kind.value(*each), kind.share, out=cut)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        kind, parts = ctx.kind, ctx.saved_tensors
        slope = torch.empty_like(parts[0])
        for cut, gradient, *each in blocks(slope, gradients[0], *parts):
            kind.slope(gradient * kind.share, each, cut)
        return None, *_gradients(kind, slope, len(parts))


class _Dot(torch.autograd.Function):
    """The sums of a product over all but some dimensions, block by block."""

    @staticmethod
    def forward(
        ctx: Any, kind: type[EvenPart], keep: Sequence[int], right: Tensor, *parts: Tensor
    ) -> Tensor:
        ctx.kind, ctx.keep = kind, sorted(keep)
        # The slope of the product is computed on the way, so that the parts can be freed at once.
        bends = kind.bends and any(ctx.needs_input_grad)
        slope = torch.empty_like(parts[0]) if bends else right
        ctx.save_for_backward(slope)
        over = [d for d in range(right.dim()) if d not in keep]
        # One partial sum per block: concatenated if blocks are whole samples, else added.
        sums = []
        for cut, factor, *each in blocks(slope, right, *parts):
            product = kind.product(factor, each, cut if bends else None)
            wide = torch.promote_types(product.dtype, torch.float32)
            sums.append(product.sum(over, dtype=wide) if over else product.to(wide))
        return (torch.cat(sums) if 0 in keep else torch.stack(sums).sum(0)) * kind.share

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        # The incoming gradient has one entry per sample and channel: broadcast it to the rest.
        shape = [slope.shape[d] if d in ctx.keep else 1 for d in range(slope.dim())]
        scaled = slope * (gradients[0] * ctx.kind.share).reshape(shape).to(slope.dtype)
        return None, None, None, *_gradients(ctx.kind, scaled, len(ctx.needs_input_grad) - 3)


def _gradients(kind: type[EvenPart], slope: Tensor, parts: int) -> list[Tensor | None]:
    """The gradient with respect to each tensor that the even part depends on."""
    return [slope if n < kind.moving else None for n in range(parts)]
