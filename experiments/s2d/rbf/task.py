"""The problem: points of a random sum of 15 radial basis functions on a line.

Shape letters: `S` points, `W` neurons.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from experiments.s2d.rbf.network import RBF, VARIANCE, build

TRUE_NEURONS = 15
POINTS = 1000
REACH = 5.0  # the points lie in [-REACH, REACH], where nothing else is asked for
SPREAD = math.sqrt(VARIANCE)
DTYPE = torch.float64


@dataclass(frozen=True)
class Task:
    """The true function and the points of one seed.

    Attributes:
        seed: of all random draws.
        truth: the true function.
        x: (S, 1).
        y: (S, 1), the true function at `x`, without noise.
        reach: the points lie in [-reach, reach].
    """

    seed: int
    truth: RBF
    x: Tensor
    y: Tensor
    reach: float = REACH


def stream(seed: int, name: str) -> Generator:
    """A separate generator for each seed and purpose, so that the draws of arms are independent."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=7).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big"))


def network(
    width: int, generator: Generator, spread: float = SPREAD, positive: bool = False
) -> RBF:
    """A network with random weights.

    Args:
        width: number of neurons.
        generator: of the random draws.
        spread: standard deviation of all weights; N(0, 3) by default.
        positive: take the absolute values of the outgoing weights.

    Returns:
        The network.
    """
    net = build(width=width).to(DTYPE)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=spread, generator=generator)
        if positive:
            net.out.weight.abs_()
    return net


def make_task(seed: int, positive: bool = False, reach: float = REACH) -> Task:
    """The true function and the points of a seed.

    Args:
        seed: of the draws.
        positive: take the absolute values of the true function's outgoing weights.
        reach: the points lie in [-reach, reach].

    Returns:
        The task.
    """
    generator = stream(seed, "task")
    truth = network(TRUE_NEURONS, generator, positive=positive)
    x = (2 * torch.rand(POINTS, 1, generator=generator, dtype=DTYPE) - 1) * reach
    with torch.no_grad():
        return Task(seed, truth, x, truth(x), reach)


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss in the form that Ramify expects: shape (S,), one value per point."""
    x, y = batch
    return (model(x) - y).square().squeeze(1)


def mse(model: nn.Module, task: Task) -> float:
    """The mean squared error on the task's points."""
    with torch.no_grad():
        return float(squared_error(model, (task.x, task.y)).mean())
