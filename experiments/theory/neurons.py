r"""S3D, Lemma 3.2, Theorems 3.4 and B.1: the loss bound by splitting matrices, number of neurons.

The network is :math:`f(x) = \sum_i w_i σ(⟨θ_i, x⟩)` with :math:`σ(z) = z^2 / 2 + 0.3 \sin z`, whose
second derivative is at least h = 0.7, and the loss is half the squared error, as in Assumption 3.1.
The theorem allows splitting any neuron with w² ≥ 1. The neuron with the largest gain has the
largest weight, which a negative triplet doubles; so here one with the smallest weight is split.
Theorem B.1 is for binary splits, which may halve a weight, and starts from many neurons.

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
KAPPA = {2: (SIGNED - 1) / (SIGNED + 1), 3: (SIGNED - 1) / 2}  # κ of m copies
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


def _chosen(proposals: Sequence[Proposal], net: Network) -> Split | None:
    """The neuron with the smallest |w| among those with w² ≥ 1; the largest gain breaks ties."""
    weights = net.out.weight.detach()[0].abs()
    edits = [proposal.edit for proposal in proposals if isinstance(proposal.edit, Split)]
    allowed = (edit for edit in edits if weights[edit.channel] >= 1)
    return min(allowed, key=lambda edit: weights[edit.channel], default=None)


def allowed_splits(data: Data, copies: int, first: float, goal: float) -> int:
    """T of Theorem 3.4 or B.1: the splits after which the loss is at most `goal`."""
    root = math.sqrt(least_eigenvalue(data[0]))
    beta = 4 * max(first - goal, 0) / (KAPPA[copies] * CURVED * root)
    return math.ceil(beta / STEP**2 * math.sqrt(POINTS / (INPUTS * goal)))


def descent(
    seed: int, splits: int, *, training: bool, copies: int = 3, width: int = 1
) -> dict[str, Any]:
    """Splits of one neuron at a time, each into the same number of copies.

    Args:
        seed: of the data and the first neurons.
        splits: their maximum number; it ends before where no neuron has w² ≥ 1.
        training: update θ between the splits.
        copies: m, 2 or 3.
        width: number of first neurons, with w = 1 and θ of a size that falls with their number.

    Returns:
        `neurons` and `loss` before the first split and after each; `share`, the decrease by each
        split over the theorem's ε²κρ/4; `allowed`, the splits of Theorem 3.4 (m = 3) or B.1 (m = 2)
        for each of `GOALS`.
    """
    generator, data = stream(seed, "first"), data_of(seed)
    theta = torch.randn(width, INPUTS, generator=generator, dtype=torch.float64) / (2 * width)
    net = Network(theta, torch.ones(width, dtype=torch.float64))
    graph = ramify.trace(net, data[0])
    method = ramify.SplittingDescent(signed=SIGNED, copies=(copies,), step=STEP, eigen="exact")
    if training:
        settle(net, data)
    neurons, losses = [width], [loss_of(net, data)]
    shares: list[float] = []
    while len(shares) < splits and losses[-1] > min(GOALS):
        best = _chosen(method.propose(graph, half_square, [data]), net)
        if best is None:
            break
        radius, before = float(radii(net, data)[best.channel]), losses[-1]
        graph = ramify.apply(graph, [best])
        after = loss_of(net, data)
        shares.append((before - after) / (STEP**2 * KAPPA[copies] * radius / 4))
        if training:
            settle(net, data)
        neurons.append(graph["hidden"].width)
        losses.append(loss_of(net, data))
    allowed = {str(goal): allowed_splits(data, copies, losses[0], goal) for goal in GOALS}
    return {"neurons": neurons, "loss": losses, "share": shares, "allowed": allowed}


def study(draws: int, splits: int) -> dict[str, Any]:
    """The lemma on random networks, and the theorems with and without training.

    Args:
        draws: networks for the lemma.
        splits: maximum of each descent; the binary splits start from as many neurons.

    Returns:
        `lemma`; `trained` and `split alone`, triplets from one neuron; `binary`, from many.
    """
    return {
        "lemma": lemma(0, draws),
        "trained": descent(0, splits, training=True),
        "split alone": descent(0, splits, training=False),
        "binary": descent(0, splits, training=False, copies=2, width=splits),
    }
