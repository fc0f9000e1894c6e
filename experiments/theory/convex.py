r"""RARTS thesis, Corollary 2.6 (ii): the rate for a convex Lagrangian that is not strongly convex.

:math:`L_a = h(w - α)` and :math:`L_p = h(u + α)` with :math:`h(z) = z^4 / 4` up to |z| = 1 and
:math:`|z| - 3/4` beyond. h is convex, :math:`|h''| ≤ 3`, and the Lagrangian is least, 0, at
w = u = α = 0, where L_a and L_p have no curvature.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from experiments.rarts.example_2_4.problem import auxiliary_weight, bounds, by_gradient_descent

LAM, BETA = 1.0, 1.0
SMOOTHNESS = 10.0  # L of (2.13): the curvature of L_a and L_p is at most 6, of the Lagrangian 9.8
START = (-1.0, 1.5, 1.0)  # w, u and α
RATE = 0.999 / (3 * SMOOTHNESS)


class Flat(nn.Module):
    """The two losses; u is the weight of the model."""

    def __init__(self, u: float, alpha: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(u, dtype=torch.float64))
        self.alpha = nn.Parameter(torch.tensor(alpha, dtype=torch.float64))

    def forward(self, half: str) -> Tensor:
        """The loss of one half: `"a"` or `"p"`, shape ()."""
        z = self.w - self.alpha if half == "a" else self.w + self.alpha
        return torch.where(z.abs() <= 1, z**4 / 4, z.abs() - 0.75)


def loss(model: nn.Module, half: str) -> Tensor:
    """The loss that the searcher minimises."""
    value: Tensor = model(half)
    return value


def rates() -> dict[str, float]:
    """The learning rates of w, u and α: within (2.15), and at most 1 / 3L."""
    largest = bounds(LAM, BETA, SMOOTHNESS)
    return {role: min(0.999 * bound, RATE) for role, bound in largest.items()}


def study(steps: int) -> dict[str, Any]:
    """RARTS from `START`.

    Args:
        steps: of the run.

    Returns:
        `gap` of the Lagrangian after each step, and the corollary's `bound` on it, 6M² / (c₄η²t),
        with the largest distance from the optimum that was seen for M.
    """
    held = rates()
    model = Flat(START[1], START[2])
    searcher = by_gradient_descent(model, loss, LAM, BETA, held)
    auxiliary = auxiliary_weight(searcher)
    auxiliary.fill_(START[0])
    farthest, gap = sum(value**2 for value in START), []
    for _ in range(steps):
        searcher.step("a", "p")
        at = torch.stack([auxiliary, model.w.detach(), model.alpha.detach()])
        farthest = max(farthest, float(at @ at))
        gap.append(searcher.lagrangian("a", "p"))
    c4 = 0.5 * min(1 / rate for rate in held.values())
    scale = 6 * farthest / (c4 * min(held.values()) ** 2)
    return {"gap": gap, "bound": [scale / (step + 1) for step in range(steps)]}
