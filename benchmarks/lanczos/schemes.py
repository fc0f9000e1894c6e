"""Lanczos, pass by pass, and the published scheme: RMSprop on the Rayleigh quotient.

Shape letters: `W` channels of a group, `D` parameters of one channel.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import RMSprop

from ramify.probe.lanczos import Vectors, lanczos_extremes
from ramify.probe.splitting_matrix import SplittingOperator, mean_product

Shapes = Sequence[tuple[int, int]]
RATE, MOMENTUM = 1e-3, 0.9  # of the published code


@dataclass(frozen=True)
class Point:
    """The state of a scheme: `passes` over the sample, `seconds`, and λ (low, high) by group."""

    passes: int
    seconds: float
    ends: list[tuple[Tensor, Tensor]]


class Passes:
    """S·v over the sample, counted and timed; calls repeated by a second run are cached."""

    def __init__(self, operators: Sequence[SplittingOperator]) -> None:
        self._operators = operators
        self._held: list[Vectors] = []
        self._next = 0
        self.seconds: list[float] = []

    def again(self) -> None:
        """Start the same run again."""
        self._next = 0

    def __call__(self, vectors: Vectors) -> Vectors:
        """S·v, one (W, D) for each target."""
        if self._next == len(self._held):
            started = time.perf_counter()
            self._held.append(mean_product(self._operators, vectors))
            self.seconds.append(time.perf_counter() - started)
        self._next += 1
        return self._held[self._next - 1]


def lanczos(
    operators: Sequence[SplittingOperator], shapes: Shapes, like: Tensor, marks: Sequence[int]
) -> list[Point]:
    """Batched Lanczos, stopped after several numbers of passes.

    Args:
        operators: the operators of the sample.
        shapes: (W, D) of each group.
        like: dtype of the vectors.
        marks: numbers of passes.

    Returns:
        One point for each mark.
    """
    product, points = Passes(operators), []
    for mark in marks:
        product.again()
        found = lanczos_extremes(product, shapes, like, tolerance=0.0, most=mark)
        seconds = sum(product.seconds[:mark])
        points.append(Point(mark, seconds, [(pair.low, pair.high) for pair in found]))
    return points


def rayleigh(
    operators: Sequence[SplittingOperator], shapes: Shapes, like: Tensor, marks: Sequence[int]
) -> Iterator[Point]:
    r"""The published scheme: RMSprop down and up the Rayleigh quotient, one step per batch.

    .. math:: R(v) = \frac{v^\top S v}{v^\top v}, \qquad
              \nabla R = \frac{2 (S v - R v)}{v^\top v}

    λ is the mean of R over the last pass. Each end needs a separate pass.

    Args:
        operators: the operators of the sample, one for each batch.
        shapes: (W, D) of each group.
        like: dtype of the vectors.
        marks: even numbers of passes.

    Yields:
        One point for each mark.
    """
    generator = torch.Generator().manual_seed(0)
    sides = []
    for _ in range(2):
        drawn = [torch.randn(*shape, generator=generator).to(like) for shape in shapes]
        sides.append([v / v.norm(dim=1, keepdim=True) for v in drawn])
    rules = [RMSprop(vectors, lr=RATE, momentum=MOMENTUM) for vectors in sides]
    seconds = 0.0
    for done in range(2, marks[-1] + 1, 2):
        started = time.perf_counter()
        lows = _epoch(operators, sides[0], rules[0], 1.0)
        highs = _epoch(operators, sides[1], rules[1], -1.0)
        seconds += time.perf_counter() - started
        if done in marks:
            yield Point(done, seconds, list(zip(lows, highs, strict=True)))


def _epoch(
    operators: Sequence[SplittingOperator], vectors: Vectors, rule: RMSprop, sign: float
) -> list[Tensor]:
    """Take one step per batch, and return the mean Rayleigh quotient (W,) of each group."""
    total = [torch.zeros(len(vector)).to(vector) for vector in vectors]
    for operator in operators:
        for n, (v, image) in enumerate(zip(vectors, operator.product(vectors), strict=True)):
            square = v.square().sum(1, keepdim=True)
            quotient = (v * image).sum(1, keepdim=True) / square
            v.grad = sign * 2 * (image - quotient * v) / square
            total[n] += quotient[:, 0] / len(operators)
        rule.step()
    return total
