"""A tensor of two displaced networks, with only those forms computed that something asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Make = Callable[[], Tensor]
MakePart = Callable[[], Tensor | None]


class Twin:
    """What a tensor is in the network of each copy.

    As long as nothing but linear operations came before, it is *straight*: the copies are base ± u,
    and u is its odd part. After that they are bent, and half their sum lies off the base by an even
    part. Each form is made when it is first asked for, and once.
    """

    def __init__(self, base: Tensor) -> None:
        self.base = base
        self._make: dict[str, MakePart] = {}
        self._made: dict[str, Tensor | None] = {}
        self.scaled: Callable[[Tensor], Tensor] | None = None
        """A channelwise multiple of the odd part, by a shorter way than through that part."""

    @classmethod
    def straight(cls, base: Tensor, odd: Make) -> Twin:
        """A twin of base + odd and base − odd."""
        twin = cls(base)
        twin._make = {"odd": odd, "even": lambda: None}
        return twin

    @classmethod
    def bent(cls, base: Tensor, plus: Make, minus: Make, even: MakePart | None = None) -> Twin:
        """A twin of two tensors; `even` where there is a shorter way to it than through both."""
        twin = cls(base)
        twin._make = {"plus": plus, "minus": minus} | ({"even": even} if even is not None else {})
        return twin

    @property
    def is_straight(self) -> bool:
        """Whether the copies are base ± u."""
        return "odd" in self._make

    def form(self, name: str) -> Tensor | None:
        """One of `odd`, `even`, `plus` and `minus`; None is zero."""
        if name not in self._made:
            make = self._make.get(name)
            self._made[name] = self._from_others(name) if make is None else make()
        return self._made[name]

    def _from_others(self, name: str) -> Tensor:
        """A form that was not given (a closure over the twin would keep the pass in memory)."""
        if name == "even":
            return (self.plus + self.minus).mul_(0.5).sub_(self.base)
        return self.base + self.odd if name == "plus" else self.base - self.odd

    def _whole(self, name: str) -> Tensor:
        found = self.form(name)
        assert found is not None
        return found

    @property
    def odd(self) -> Tensor:
        """Half the difference of the copies, of a straight twin."""
        return self._whole("odd")

    @property
    def even(self) -> Tensor | None:
        """Half the copies' sum, minus the base; None is zero."""
        return self.form("even")

    @property
    def plus(self) -> Tensor:
        """The tensor of the first copy."""
        return self._whole("plus")

    @property
    def minus(self) -> Tensor:
        """The tensor of the second copy."""
        return self._whole("minus")


def rectified(x: Twin, base: Tensor) -> Twin:
    """ReLU; right behind linear operations, its even part has a closed form.

    Args:
        x: its argument.
        base: its value in the network as it is.

    Returns:
        Its twin.
    """
    even = (lambda: _ReluEven.apply(x.odd, x.base)) if x.is_straight else None
    return Twin.bent(base, lambda: x.plus.relu(), lambda: x.minus.relu(), even)


class _ReluEven(torch.autograd.Function):
    """½ [relu(b + u) + relu(b − u)] − relu(b) = ½ max(|u| − |b|, 0), and its slope in u."""

    @staticmethod
    def forward(ctx: Any, odd: Tensor, base: Tensor) -> Tensor:
        """The even part."""
        out = odd.abs().sub_(base.abs()).clamp_min_(0).mul_(0.5)
        ctx.save_for_backward(odd, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        """½ sign(u) where |u| > |b|."""
        odd, out = ctx.saved_tensors
        slope = torch.ops.aten.threshold_backward(gradients[0], out, 0.0)
        return slope.mul_(odd.sign()).mul_(0.5), None
