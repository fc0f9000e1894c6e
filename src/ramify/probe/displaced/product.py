"""Products of two activations that are summed over a channel, as q·kᵀ over those of a head.

The contribution of a channel c to Z = Σ_c a_c b_c is a product of its own two factors: a binary
split turns it into ½ [a⁺ b⁺ + a⁻ b⁻], and with G the gradient of the loss at Z, ⟨a_c b_c, G⟩ is the
sum of the entries of a_c ∘ (G bᵀ)_c. So no channel's own Z is ever materialised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ramify.probe.displaced.even import EvenPart, EvenTensor
from ramify.probe.displaced.tensor import DisplacedTensor
from ramify.tracing.contraction import FIRST_FACTOR
from ramify.tracing.recorder import Op, Ref


def factors_of(op: Op) -> tuple[Ref, Ref] | None:
    """The factors of a product; None if the change of the operation is not known."""
    place = FIRST_FACTOR.get(op.name)
    if place is None or not isinstance(op.args[place], Ref):
        return None
    return op.args[place], op.args[place + 1]


def alpha_of(op: Op) -> float:
    """The constant factor of an operation's product."""
    return float(op.kwargs.get("alpha", 1))


@dataclass(frozen=True)
class ProductChange:
    """A change of Z: a weighted sum of products of two factors."""

    products: tuple[tuple[float, Tensor, Tensor], ...]

    def against(self, gradient: Tensor) -> tuple[EvenPart, Tensor]:
        """⟨change, gradient⟩ by the entries of the first factor, and ones to sum them with.

        Args:
            gradient: at Z.

        Returns:
            The entries, and ones.
        """
        entries, *rest = (w * left * _back(gradient, right) for w, left, right in self.products)
        for each in rest:
            entries = entries + each
        return EvenTensor((entries,)), torch.ones_like(entries[:0].sum()).expand(entries.shape)


def _back(gradient: Tensor, right: Tensor) -> Tensor:
    """The gradient at the first factor."""
    if right.dim() < 2:
        return gradient.unsqueeze(-1) * right
    return gradient @ right.mT


def product_change(
    alpha: float, left: DisplacedTensor | Tensor, right: DisplacedTensor | Tensor
) -> ProductChange | None:
    """½ [a⁺ b⁺ + a⁻ b⁻] − a b.

    Args:
        alpha: the constant factor of the product.
        left: the first factor; a plain tensor is not displaced.
        right: the second factor.

    Returns:
        The change; None is zero.
    """
    # Both factors are displaced: for linear ones, ½ [(a+u)(b+w) + (a−u)(b−w)] − a b is u w.
    if isinstance(left, DisplacedTensor) and isinstance(right, DisplacedTensor):
        if left.is_linear and right.is_linear:
            return ProductChange(((alpha, left.odd, right.odd),))
        return ProductChange(
            (
                (alpha / 2, left.plus, right.plus),
                (alpha / 2, left.minus, right.minus),
                (-alpha, left.base, right.base),
            )
        )
    # One factor is displaced: the change is linear in its even part.
    one = left.even if isinstance(left, DisplacedTensor) else left
    other = right.even if isinstance(right, DisplacedTensor) else right
    return None if one is None or other is None else ProductChange(((alpha, one, other),))
