r"""S2D, Theorem 2.5: splitting is steepest descent over distributions of neurons, in one dimension.

Neurons are particles θ on a line, the network is their mean, :math:`f_ρ(x) = E_ρ e^{-(θ x)^2 / 2}`,
and a distribution within ε of ρ in the ∞-Wasserstein metric puts each particle's mass anywhere in
[θ - ε, θ + ε]. With a squared error the best of them solves a convex problem, here by
nonnegative least squares on a grid, without using splits.

Shape letters: `S` points, `N` particles, `K` places of the grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls
from torch import Tensor, nn

import ramify

Numbers = NDArray[np.float64]
RADII = (0.4, 0.2, 0.1, 0.05, 0.02, 0.01)
TRUE = np.array([0.2, 1.0, 5.0])  # the particles of what is fitted
POINTS = np.linspace(0.05, 3.0, 200)
START = np.array([0.3, 3.0])
HOLD = 10.0  # weight of the rows that hold the mass of each particle


class Mean(nn.Module):
    """The mean of exp(-(θ x)² / 2) over particles.

    Args:
        particles: (N,).
    """

    def __init__(self, particles: Numbers) -> None:
        super().__init__()
        self.hidden = nn.Linear(1, len(particles), bias=False, dtype=torch.float64)
        self.out = nn.Linear(len(particles), 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.from_numpy(particles)[:, None])
            self.out.weight.fill_(1 / len(particles))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (S, 1) at points (S, 1)."""
        z = self.hidden(x)
        return self.out(torch.exp(-(z**2) / 2))


def values(particles: Numbers) -> Numbers:
    """exp(-(θ x)² / 2), shape (S, N)."""
    return np.exp(-np.square(np.multiply.outer(POINTS, particles)) / 2)


def residual(particles: Numbers) -> Numbers:
    """The error of the mean of the particles, (S,)."""
    return values(particles).mean(1) - values(TRUE).mean(1)


def loss_and_gradient(particles: Numbers) -> tuple[float, Numbers]:
    """The mean squared error, and its gradient with respect to each particle, (N,)."""
    off = residual(particles)
    slopes = -values(particles) * np.multiply.outer(POINTS**2, particles) / len(particles)
    return float(off @ off) / len(POINTS), 2 * off @ slopes / len(POINTS)


def optimum() -> Numbers:
    """Particles at a local optimum of the loss."""
    found: Numbers = minimize(
        loss_and_gradient, START, jac=True, method="BFGS", options={"gtol": 1e-12}
    ).x
    return found


def steepest(particles: Numbers, radius: float, places: int) -> float:
    """The largest decrease of the loss within a radius, over all distributions on a grid.

    Args:
        particles: (N,), of equal mass.
        radius: ε.
        places: K, of the grid for each particle; odd, so that the particle's own place is included.

    Returns:
        The decrease.
    """
    grid = particles[:, None] + np.linspace(-radius, radius, places)
    moved = values(grid.ravel()) - np.repeat(values(particles), places, axis=1)
    columns = moved / len(particles) / np.sqrt(len(POINTS))
    off = residual(particles) / np.sqrt(len(POINTS))
    mass = HOLD * np.repeat(np.eye(len(particles)), places, axis=1)
    target = np.concatenate([-off, np.full(len(particles), HOLD)])
    shares, _ = nnls(np.concatenate([columns, mass]), target, maxiter=100_000)
    change = columns @ shares
    return float(-change @ (2 * off + change))


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """One loss for each point, (S,)."""
    x, y = batch
    return (model(x) - y).square().squeeze(1)


def split(particles: Numbers, radius: float) -> tuple[float, float]:
    """The effect of Ramify's splits of all particles with a negative index.

    Args:
        particles: (N,), at a local optimum.
        radius: ε.

    Returns:
        The measured decrease of the loss, and the theorem's, -ε²/2 Σ min(λ, 0).
    """
    net = Mean(particles)
    x = torch.from_numpy(POINTS)[:, None]
    batch = (x, torch.from_numpy(values(TRUE).mean(1))[:, None])
    graph = ramify.trace(net, x)
    method = ramify.SplittingDescent(step=radius, eigen="exact")
    proposals = [
        p
        for p in method.propose(graph, squared_error, [batch])
        if p.splitting_index is not None and p.splitting_index < 0
    ]
    before = float(squared_error(net, batch).mean().detach())
    ramify.apply(graph, [proposal.edit for proposal in proposals])
    after = float(squared_error(net, batch).mean().detach())
    indices = [p.splitting_index for p in proposals if p.splitting_index is not None]
    return before - after, -0.5 * radius**2 * sum(indices)


def study(places: int) -> dict[str, Any]:
    """Both parts of the theorem over all radii.

    Args:
        places: K.

    Returns:
        Rows of `moving`, part a), and of `splitting`, part b): `radius`, the `best` decrease over
        all distributions, that of the `rule` and that of the `theorem`; and the `optimum`.
    """
    moving, splitting, still = [], [], optimum()
    loss, slope = loss_and_gradient(START)
    for radius in RADII:
        row = {"radius": radius, "best": steepest(START, radius, places)}
        moved = loss_and_gradient(START - radius * np.sign(slope))[0]
        moving.append({**row, "rule": loss - moved, "theorem": radius * float(abs(slope).sum())})
        measured, expected = split(still, radius)
        best = steepest(still, radius, places)
        splitting.append({"radius": radius, "best": best, "rule": measured, "theorem": expected})
    return {"moving": moving, "splitting": splitting, "optimum": still.tolist()}
