r"""RARTS thesis, Corollary 2.8: RARTS with stochastic gradients on the solvable model.

Each sample adds terms linear in w, u and α of mean zero to the Lagrangian of Example 2.4, so that
L, μ, M and C of the corollary are known. Each chain sees its own samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from experiments.rarts.example_2_4.problem import auxiliary_weight, by_gradient_descent, closed_form
from experiments.s2d.rbf.task import stream

LAM, BETA = 1.0, 2.0
SPREAD = 0.3  # standard deviation of each linear term
PARTS = (1.0, 0.5, 0.25, 0.125)  # learning rates over the largest that the corollary allows
EVERY = 10  # steps between two points of a curve


class Chains(nn.Module):
    """w and α of independent chains, (chains,) each, starting at 0 and 2."""

    def __init__(self, chains: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(chains, dtype=torch.float64))
        self.alpha = nn.Parameter(torch.full((chains,), 2.0, dtype=torch.float64))

    def forward(self, half: str, noise: Tensor) -> Tensor:
        """The losses of one half, summed over the chains; noise has rows for the weight and α."""
        if half == "a":
            plain = (self.w - self.alpha).square()
        else:
            plain = self.alpha * self.w - 2 * self.alpha + 1
        return (plain + noise[0] * self.w + noise[1] * self.alpha).sum()


def loss(model: nn.Module, batch: tuple[str, Tensor]) -> Tensor:
    """The loss that the searcher minimises."""
    value: Tensor = model(*batch)
    return value


def hessian() -> Tensor:
    """The Hessian of the Lagrangian, in the order of the steps: w, u, α."""
    rows = [[2 * LAM + BETA, -BETA, -2 * LAM], [-BETA, BETA, 1.0], [-2 * LAM, 1.0, 2 * LAM]]
    return torch.tensor(rows, dtype=torch.float64)


def noise_matrix() -> Tensor:
    """The covariance of a sample's gradient: λ times the noise of L_a, and that of L_p."""
    return SPREAD**2 * torch.diag(torch.tensor([LAM**2, 1.0, 1.0 + LAM**2], dtype=torch.float64))


def after_earlier(rate: float) -> Tensor:
    """The map from the gradients at the common start to the gradients of the three steps."""
    below = torch.tril(hessian(), -1)
    return torch.linalg.inv(torch.eye(3, dtype=torch.float64) + rate * below)


def constants(rate: float) -> dict[str, float]:
    """L, μ, M and C of the corollary, for three equal learning rates (K = 1)."""
    ends = torch.linalg.eigvalsh(hessian())
    seen = after_earlier(rate)
    return {
        "L": float(ends[-1]),
        "mu": float(ends[0]),
        "M": float((seen @ noise_matrix() @ seen.T).trace()),
        "C": float(torch.linalg.matrix_norm(seen, 2) ** 2),
    }


def largest_rate() -> float:
    """The largest learning rate of the corollary: min(1/3L, 1/4CL), where C depends on the rate."""
    rate = 1 / (3 * constants(0.0)["L"])
    for _ in range(50):
        held = constants(rate)
        rate = min(1 / (3 * held["L"]), 1 / (4 * held["C"] * held["L"]))
    return rate


def floor(rate: float) -> float:
    """The exact expected final gap, from the stationary covariance of the iteration."""
    moved = rate * after_earlier(rate)
    step = torch.eye(3, dtype=torch.float64) - moved @ hessian()
    driven = (moved @ noise_matrix() @ moved.T).flatten()
    spread = torch.linalg.solve(torch.eye(9, dtype=torch.float64) - torch.kron(step, step), driven)
    return float((hessian() @ spread.reshape(3, 3)).trace() / 2)


def gaps(rate: float, chains: int, steps: int) -> list[float]:
    """The mean gap of the Lagrangian over the chains, every `EVERY`-th step."""
    model, generator = Chains(chains), stream(0, f"noise {rate}")
    rates = dict.fromkeys(("auxiliary", "weights", "arch"), rate)
    searcher = by_gradient_descent(model, loss, LAM, BETA, rates)
    rest, curvature = torch.tensor(closed_form(LAM, BETA), dtype=torch.float64), hessian()
    found = []
    for step in range(steps):
        if step % EVERY == 0:
            at = torch.stack([auxiliary_weight(searcher), model.w.detach(), model.alpha.detach()])
            off = at.T - rest
            found.append(float(((off @ curvature) * off).sum(1).mean() / 2))
        draws = torch.randn(2, 2, chains, generator=generator, dtype=torch.float64) * SPREAD
        searcher.step(("a", draws[0]), ("p", draws[1]))
    return found


def study(chains: int, steps: int) -> list[dict[str, Any]]:
    """Runs at several learning rates.

    Args:
        chains: number of independent runs of each.
        steps: of each run at the largest rate; smaller rates take proportionally more.

    Returns:
        By rate: `curve` of the gap, its mean over the last half (`end`), the exact `floor`, the
        corollary's `bound` on it, and its `factor` a step.
    """
    found = []
    for part in PARTS:
        rate = part * largest_rate()
        held, curve = constants(rate), gaps(rate, chains, round(steps / part))
        tail = curve[len(curve) // 2 :]
        found.append(
            {
                "rate": rate,
                "curve": curve,
                "end": sum(tail) / len(tail),
                "floor": floor(rate),
                "bound": 2 * held["M"] * held["L"] * rate / held["mu"],
                "factor": 1 - held["mu"] * rate / 2,
                **held,
            }
        )
    return found
