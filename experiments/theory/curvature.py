r"""Gauss-Newton, Theorems 1 and 2: the curvature (g · Δz)² / 4L of a least-squares loss.

The loss is :math:`L(z) = \|A z - b\|^2 / 2`. Its true second-order term is
:math:`\|A Δz\|^2 / 2`, and the paper's is that times the squared cosine of the angle between
:math:`A Δz` and the residual: never too large, exact towards a solution (Theorem 1) and at rank 1
(Theorem 2), and the smaller the higher the rank for a direction drawn at random.

Shape letters: `Z` activations, `R` rank, `N` draws.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from experiments.s2d.rbf.task import stream

SIZE = 32  # Z
RANKS = (1, 2, 4, 8, 16, 32)


def shares(a: Tensor, b: Tensor, z: Tensor, moves: Tensor) -> Tensor:
    """The paper's second-order term over the true one.

    Args:
        a: (R, Z).
        b: (R,).
        z: the activations, (Z,).
        moves: Δz, (N, Z).

    Returns:
        (N,).
    """
    residual = a @ z - b
    loss, gradient = residual @ residual / 2, a.T @ residual
    paper = (moves @ gradient).square() / (4 * loss)
    return paper / ((moves @ a.T).square().sum(1) / 2)


def study(draws: int) -> list[dict[str, Any]]:
    """Random problems of each rank.

    Args:
        draws: of the problem and of the displacement.

    Returns:
        By rank: `shares` for random displacements, and `off`, the largest deviation from 1 for
        multiples of displacements that lead to a solution.
    """
    found = []
    for rank in RANKS:
        generator, drawn, off = stream(rank, "curvature"), [], 0.0
        for _ in range(draws):
            a = torch.randn(rank, SIZE, generator=generator, dtype=torch.float64)
            b = torch.randn(rank, generator=generator, dtype=torch.float64)
            z, random = torch.randn(2, SIZE, generator=generator, dtype=torch.float64)
            solving = torch.linalg.pinv(a) @ (b - a @ z)
            towards = torch.stack([solving, -0.3 * solving, 2 * solving])
            off = max(off, float((shares(a, b, z, towards) - 1).abs().max()))
            drawn.append(float(shares(a, b, z, random[None])[0]))
        found.append({"rank": rank, "shares": drawn, "off": off})
    return found
