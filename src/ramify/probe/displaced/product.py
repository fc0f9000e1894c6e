"""Products of two activations that are summed over a channel, as q·kᵀ is over those of a head.

What a channel c adds to Z = Σ_c a_c b_c is a product of its own two factors: a binary split makes
it ½ [a⁺ b⁺ + a⁻ b⁻], and with G the gradient of the loss at Z, ⟨a_c b_c, G⟩ is the sum of the
entries of a_c ∘ (G bᵀ)_c. So no channel's own Z is ever written out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ramify.probe.displaced.even import Even, Whole
from ramify.probe.displaced.tensor import Twin
from ramify.tracing.contraction import FIRST_FACTOR
from ramify.tracing.recorder import Op, Ref


def factors_of(op: Op) -> tuple[Ref, Ref] | None:
    """The factors of a product; None where the operation is none whose change is known."""
    place = FIRST_FACTOR.get(op.name)
    if place is None or not isinstance(op.args[place], Ref):
        return None
    return op.args[place], op.args[place + 1]


def share_of(op: Op) -> float:
    """What an operation multiplies the product of its factors by."""
    return float(op.kwargs.get("alpha", 1))


@dataclass(frozen=True)
class Change:
    """A change of Z: a sum of products of two factors, each with a weight."""

    products: tuple[tuple[float, Tensor, Tensor], ...]

    def against(self, gradient: Tensor) -> tuple[Even, Tensor]:
        """⟨change, gradient⟩ by the entries of the first factor, and what they are to be dotted by.

        Args:
            gradient: at Z.

        Returns:
            The entries, and ones.
        """
        parts = [w * left * _back(gradient, right) for w, left, right in self.products]
        entries = parts[0]
        for part in parts[1:]:
            entries = entries + part
        return Whole((entries,)), torch.ones_like(entries[:0].sum()).expand(entries.shape)


def _back(gradient: Tensor, right: Tensor) -> Tensor:
    """The gradient at the first factor."""
    if right.dim() < 2:
        return gradient.unsqueeze(-1) * right
    return gradient @ right.mT


def split(share: float, left: Twin | Tensor, right: Twin | Tensor) -> Change | None:
    """½ [a⁺ b⁺ + a⁻ b⁻] − a b.

    Args:
        share: what the product is multiplied by.
        left: the first factor; a plain tensor does not move.
        right: the second one.

    Returns:
        The change; None is zero.
    """
    if isinstance(left, Twin) and isinstance(right, Twin):
        if left.is_straight and right.is_straight:
            return Change(((share, left.odd, right.odd),))
        return Change(
            (
                (share / 2, left.plus, right.plus),
                (share / 2, left.minus, right.minus),
                (-share, left.base, right.base),
            )
        )
    one = left.even if isinstance(left, Twin) else left
    other = right.even if isinstance(right, Twin) else right
    return None if one is None or other is None else Change(((share, one, other),))
