"""The solvable model, its closed forms, and searchers on it (RARTS thesis, Example 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD

from ramify import Loss
from ramify.relax import RARTS, Searcher

OPTIMUM = 1.0
"""w* and α* of the bilevel problem."""
SMOOTHNESS = 4.0
"""L of (2.13): the largest eigenvalue of the Hessians, 4 of L_a and 1 of L_p."""


class Solvable(nn.Module):
    """`L_a = w² − 2αw + α²` and `L_p = αw − 2α + 1`, in float64.

    Args:
        w: initial weight.
        alpha: initial architecture parameter.
    """

    def __init__(self, w: float = 0.0, alpha: float = 2.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.alpha = nn.Parameter(torch.tensor(alpha, dtype=torch.float64))

    def forward(self, half: str) -> Tensor:
        """The loss of one half: `"a"` or `"p"`, shape ()."""
        if half == "a":
            return (self.w - self.alpha).square()
        return self.alpha * self.w - 2 * self.alpha + 1


def loss(model: nn.Module, half: str) -> Tensor:
    """The loss that a searcher minimises; a batch is the name of a half."""
    value: Tensor = model(half)
    return value


def closed_form(lam: float, beta: float) -> tuple[float, float, float]:
    """The limit of RARTS: (w, u, α), from Example 2.4."""
    below = 4 * beta * lam - beta - 2 * lam
    w = (4 * beta * lam - 2 * beta) / below
    u = (4 * beta * lam - 2 * beta - 4 * lam) / below
    return w, u, 4 * beta * lam / below


def bounds(lam: float, beta: float, smoothness: float = SMOOTHNESS) -> dict[str, float]:
    """The largest learning rates of (2.15); its first bound is printed for `y` but applies to u."""
    return {
        "auxiliary": 0.5 / (beta / 2 + lam * smoothness),
        "weights": 0.5 / (beta / 2 + smoothness),
        "arch": 0.5 / ((1 + lam) * smoothness),
    }


def curvatures(lam: float, beta: float) -> dict[str, float]:
    """The inverse second derivatives of the Lagrangian along w, u and α: far above (2.15)."""
    return {"auxiliary": 1 / (2 * lam + beta), "weights": 1 / beta, "arch": 1 / (2 * lam)}


def rarts(
    lam: float,
    beta: float,
    rates: dict[str, float],
    start: tuple[float, float, float] = (0.0, 0.0, 2.0),
) -> RARTS:
    """RARTS on the solvable model, by plain gradient descent, from a point (w, u, α)."""
    w, u, alpha = start
    searcher = by_gradient_descent(Solvable(u, alpha), loss, lam, beta, rates)
    auxiliary_weight(searcher).fill_(w)
    return searcher


def by_gradient_descent(
    model: nn.Module, loss: Loss, lam: float, beta: float, rates: Mapping[str, float]
) -> RARTS:
    """RARTS with plain gradient descent in each of its three steps.

    Args:
        model: has a weight `w` and an architecture parameter `alpha`.
        loss: the loss that the searcher minimises.
        lam: λ.
        beta: β.
        rates: the learning rates of the roles `auxiliary`, `weights` and `arch`.

    Returns:
        The searcher.
    """
    made: dict[str, Any] = {role: partial(SGD, lr=rate) for role, rate in rates.items()}
    return RARTS(
        model,
        arch=cast(nn.Parameter, model.alpha),
        loss=loss,
        lam=lam,
        beta=beta,
        weight_optimizer=made["weights"],
        arch_optimizer=made["arch"],
        auxiliary_optimizer=made["auxiliary"],
    )


def other(
    kind: Callable[..., Searcher],
    rate: float,
    start: tuple[float, float] = (0.0, 2.0),
    **settings: Any,
) -> Searcher:
    """Another searcher on the solvable model, by plain gradient descent, from a point (w, α)."""
    model, sgd = Solvable(*start), partial(SGD, lr=rate)
    return kind(
        model,
        arch=model.alpha,
        loss=loss,
        weight_optimizer=sgd,
        arch_optimizer=sgd,
        **settings,
    )


def point(searcher: Searcher) -> tuple[float, float]:
    """(w, α) of the model; of RARTS (u, α)."""
    model: Any = searcher.model
    return model.w.item(), model.alpha.item()


def auxiliary(searcher: RARTS) -> float:
    """The auxiliary weight w of RARTS, if it is one number."""
    return auxiliary_weight(searcher).item()


def auxiliary_weight(searcher: RARTS) -> Tensor:
    """The auxiliary weight w of RARTS, not a copy."""
    weight: Tensor = searcher.state_dict()["tensors"]["auxiliary"]["w"]
    return weight


def least_lagrangian(lam: float, beta: float) -> float:
    """L at the closed form, its minimum."""
    w, u, alpha = closed_form(lam, beta)
    return alpha * u - 2 * alpha + 1 + lam * (w - alpha) ** 2 + beta / 2 * (u - w) ** 2


def contraction(lam: float, beta: float, rates: dict[str, float]) -> float:
    """The asymptotic factor by which a step of (2.12) shrinks the distance to its limit.

    The spectral radius of the Jacobian of (w, u, α) → (w, u, α) after a step; the gap of the
    Lagrangian, a quadratic form in the distance, shrinks by its square.

    Args:
        lam: λ.
        beta: β.
        rates: the learning rates by role.

    Returns:
        The factor.
    """

    def step(z: Tensor) -> Tensor:
        w, u, alpha = z
        w = w - rates["auxiliary"] * (2 * lam * (w - alpha) + beta * (w - u))
        u = u - rates["weights"] * (alpha + beta * (u - w))
        alpha = alpha - rates["arch"] * (2 * lam * (alpha - w) + u)
        return torch.stack([w, u, alpha])

    zero = torch.zeros(3, dtype=torch.float64)
    jacobian: Any = torch.autograd.functional.jacobian(step, zero)
    return float(torch.linalg.eigvals(jacobian).abs().max())
