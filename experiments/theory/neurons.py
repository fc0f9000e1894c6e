r"""S3D, Lemma 3.2 and Theorem 3.4: the loss bound by splitting matrices, number of neurons.

The network is :math:`f(x) = \sum_i w_i σ(⟨θ_i, x⟩)` with :math:`σ(z) = z^2 / 2 + 0.3 \sin z`, whose
second derivative is at least h = 0.7, and the loss is half the squared error, as in Assumption 3.1.
The theorem allows splitting any neuron with w² ≥ 1. The neuron with the largest gain has the
largest weight, which a negative triplet doubles; so here one with the smallest weight is split.

Shape letters: `S` points, `D` inputs, `W` neurons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import ramify
from experiments.s2d.rbf.task import stream
from ramify import Proposal, Split

CURVED = 0.7  # h
SIGNED = 3.0  # c
KAPPA = (SIGNED - 1) / 2  # κ₃
POINTS, INPUTS = 20, 6
STEP = 0.1  # ε
GOALS = (0.3, 0.1, 0.03, 0.01, 0.003)  # η
INNER = 5  # steps of L-BFGS between two splits


class Network(nn.Module):
    """A hidden layer of width W on `INPUTS` inputs, one output.

    Args:
        theta: (W, D).
        weights: (W,).
    """

    def __init__(self, theta: Tensor, weights: Tensor) -> None:
        super().__init__()
        self.hidden = nn.Linear(INPUTS, len(theta), bias=False, dtype=torch.float64)
        self.out = nn.Linear(len(theta), 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.hidden.weight.copy_(theta)
            self.out.weight.copy_(weights[None])

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (S, 1) of inputs (S, D)."""
        z = self.hidden(x)
        return self.out(z**2 / 2 + 0.3 * torch.sin(z))


Data = tuple[Tensor, Tensor]


def half_square(model: nn.Module, batch: Data) -> Tensor:
    """One loss for each point, (S,)."""
    x, y = batch
    return (model(x) - y).square().squeeze(1) / 2


def loss_of(net: Network, data: Data) -> float:
    """The mean loss."""
    with torch.no_grad():
        return float(half_square(net, data).mean())


def data_of(seed: int) -> Data:
    """Normally distributed inputs (S, D) and outputs (S, 1)."""
    generator = stream(seed, "points")
    shapes = (POINTS, INPUTS), (POINTS, 1)
    x, y = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return x, y


def least_eigenvalue(x: Tensor) -> float:
    """λ_X of Assumption 3.1."""
    products = (x[:, :, None] * x[:, None, :]).flatten(1)
    return float(torch.linalg.eigvalsh(products @ products.T / INPUTS**2)[0])


def radii(net: Network, data: Data) -> Tensor:
    """The spectral radius of each neuron's splitting matrix, (W,)."""
    matrices = ramify.splitting_matrix(ramify.trace(net, data[0]), "hidden", half_square, [data])
    return torch.linalg.eigvalsh(matrices).abs().amax(1)


def bound(net: Network, data: Data) -> float:
    """The bound of Lemma 3.2 on the mean squared error, from its best neuron."""
    alpha = POINTS / (INPUTS * CURVED**2 * least_eigenvalue(data[0]))
    smallest = (radii(net, data) / net.out.weight.detach()[0]).square().min()
    return alpha * float(smallest)


def lemma(seed: int, draws: int) -> list[tuple[float, float]]:
    """The mean squared error of random networks, and the lemma's bound on it."""
    generator, data, found = stream(seed, "networks"), data_of(seed), []
    for draw in range(draws):
        width = 1 + draw % 8
        theta = torch.randn(width, INPUTS, generator=generator, dtype=torch.float64)
        weights = torch.randn(width, generator=generator, dtype=torch.float64)
        net = Network(theta / 2, weights)
        found.append((2 * loss_of(net, data), bound(net, data)))
    return found


def settle(net: Network, data: Data) -> None:
    """Parametric updates: L-BFGS with a line search on θ only, which does not raise the loss."""
    optimizer = torch.optim.LBFGS(
        [net.hidden.weight], max_iter=INNER, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = half_square(net, data).mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def _chosen(proposals: Sequence[Proposal], net: Network) -> Split:
    """The neuron with the smallest |w| among those with w² ≥ 1; the largest gain breaks ties."""
    weights = net.out.weight.detach()[0].abs()
    edits = [proposal.edit for proposal in proposals if isinstance(proposal.edit, Split)]
    return min((e for e in edits if weights[e.channel] >= 1), key=lambda e: weights[e.channel])


def descent(seed: int, splits: int, training: bool) -> dict[str, Any]:
    """Triplet splits of one neuron at a time, starting from one neuron.

    Args:
        seed: of the data and the first neuron.
        splits: their maximum number.
        training: update θ between the splits.

    Returns:
        `neurons` and `loss` before the first split and after each; `share`, the decrease by each
        split over the theorem's ε²κρ/4; `allowed`, the theorem's neurons for each of `GOALS`.
    """
    generator, data = stream(seed, "first"), data_of(seed)
    theta = torch.randn(1, INPUTS, generator=generator, dtype=torch.float64) / 2
    net = Network(theta, torch.ones(1, dtype=torch.float64))
    graph = ramify.trace(net, data[0])
    method = ramify.SplittingDescent(signed=SIGNED, copies=(3,), step=STEP, eigen="exact")
    if training:
        settle(net, data)
    neurons, losses = [1], [loss_of(net, data)]
    shares: list[float] = []
    while len(shares) < splits and losses[-1] > min(GOALS):
        best = _chosen(method.propose(graph, half_square, [data]), net)
        radius, before = float(radii(net, data)[best.channel]), losses[-1]
        graph = ramify.apply(graph, [best])
        after = loss_of(net, data)
        shares.append((before - after) / (STEP**2 * KAPPA * radius / 4))
        if training:
            settle(net, data)
        neurons.append(graph["hidden"].width)
        losses.append(loss_of(net, data))
    root = math.sqrt(least_eigenvalue(data[0]))
    allowed = {}
    for goal in GOALS:
        beta = 4 * max(losses[0] - goal, 0) / (KAPPA * CURVED * root)
        steps = math.ceil(beta / STEP**2 * math.sqrt(POINTS / (INPUTS * goal)))
        allowed[str(goal)] = 2 * steps + 1
    return {"neurons": neurons, "loss": losses, "share": shares, "allowed": allowed}


def study(draws: int, splits: int) -> dict[str, Any]:
    """The lemma on random networks, and the theorem with and without training."""
    return {
        "lemma": lemma(0, draws),
        "trained": descent(0, splits, training=True),
        "split alone": descent(0, splits, training=False),
    }
