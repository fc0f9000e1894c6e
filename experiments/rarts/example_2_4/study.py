"""The runs on the solvable model: paths, limits, and the decrease of the Lagrangian."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from experiments.rarts.example_2_4.problem import (
    OPTIMUM,
    auxiliary,
    bounds,
    closed_form,
    contraction,
    curvatures,
    least_lagrangian,
    other,
    point,
    rarts,
)
from ramify.relax import DARTS, RARTS, Joint, MiLeNAS, Searcher

START = (-2.0, 2.0)
"""(w, α) to begin with, as in Figure 2 of DARTS; the thesis does not print its own."""
RATE = 0.05
"""Learning rate of all searchers with one copy of the weights."""
END = (1e-10, 1e-6)
Path = list[tuple[float, float]]
OTHERS: dict[str, tuple[Any, dict[str, Any], float]] = {
    "DARTS, first order": (DARTS, {}, 2.0),
    "MiLeNAS, λ = 1": (MiLeNAS, {}, 2.0),
    "DARTS, exact, ξ = 0.1": (DARTS, {"order": 2, "xi": 0.1, "exact": True}, 2 / 1.2),
    "DARTS, exact, ξ = 0.5": (DARTS, {"order": 2, "xi": 0.5, "exact": True}, 1.0),
    "DARTS, exact, ξ = 1": (DARTS, {"order": 2, "xi": 1.0, "exact": True}, 2 / 3),
    "DARTS, difference, ξ = 0.5": (DARTS, {"order": 2, "xi": 0.5}, 1.0),
    "Joint": (Joint, {}, 4 / 3),
}
"""Name -> searcher, its settings, and its α in the limit."""


@dataclass(frozen=True)
class Limit:
    """The limit of RARTS for one λ and β.

    Attributes:
        lam: λ.
        beta: β.
        found: (w, u, α) after the last step.
        expected: the closed form.
        steps: number of steps.
    """

    lam: float
    beta: float
    found: tuple[float, float, float]
    expected: tuple[float, float, float]
    steps: int

    @property
    def deviation(self) -> float:
        """The largest distance of w, u and α from the closed form."""
        return max(abs(a - b) for a, b in zip(self.found, self.expected, strict=True))

    @property
    def error(self) -> float:
        """The largest distance from the optimum of the bilevel problem."""
        return max(abs(value - OPTIMUM) for value in self.found)

    @property
    def ratio(self) -> float:
        """The error over 1/λ + 1/β."""
        return self.error / (1 / self.lam + 1 / self.beta)


@dataclass(frozen=True)
class Descent:
    """The Lagrangian under RARTS at learning rates just below (2.15).

    Attributes:
        lam: λ.
        beta: β.
        gaps: L − L* before each step.
        predicted: the ratio of successive gaps by the Jacobian of the step.
        corollary: the bound of Corollary 2.6 on it.
    """

    lam: float
    beta: float
    gaps: list[float]
    predicted: float
    corollary: float

    @property
    def rise(self) -> float:
        """The largest increase of L in a step; 0 if it never increased."""
        return max(0.0, *(b - a for a, b in itertools.pairwise(self.gaps)))

    @property
    def measured(self) -> float:
        """The mean ratio of successive gaps at the end, between 1e-6 and 1e-10 of the first gap."""
        least, most = END
        held = [gap for gap in self.gaps if least < gap / self.gaps[0] < most]
        return math.exp(math.log(held[-1] / held[0]) / (len(held) - 1))


def limits() -> Iterator[Limit]:
    """RARTS for a grid of λ and β, with the largest steps that the curvature allows."""
    for lam, beta in itertools.product((1.0, 2.0, 10.0, 50.0, 200.0), (2.0, 10.0, 50.0, 200.0)):
        rates = curvatures(lam, beta)
        steps = math.ceil(math.log(1e-11) / math.log(contraction(lam, beta, rates)))
        searcher = rarts(lam, beta, rates, (*START[:1], *START))
        for _ in range(steps):
            searcher.step("a", "p")
        found = (auxiliary(searcher), *point(searcher))
        yield Limit(lam, beta, found, closed_form(lam, beta), steps)


def descents() -> Iterator[Descent]:
    """The Lagrangian over the steps, for a few λ and β."""
    for lam, beta in ((1.0, 2.0), (1.0, 10.0), (10.0, 2.0), (10.0, 10.0)):
        rates = {role: 0.999 * rate for role, rate in bounds(lam, beta).items()}
        searcher = rarts(lam, beta, rates, (*START[:1], *START))
        ratio = contraction(lam, beta, rates) ** 2
        least, gaps = least_lagrangian(lam, beta), []
        for _ in range(math.ceil(math.log(1e-11) / math.log(ratio))):
            gaps.append(searcher.lagrangian("a", "p") - least)
            searcher.step("a", "p")
        yield Descent(lam, beta, gaps, ratio, _corollary(lam, beta, rates))


def _corollary(lam: float, beta: float, rates: dict[str, float]) -> float:
    """1 − c₄η²μ/3 of Corollary 2.6, with c₄ of (2.20) and μ the least curvature of L."""
    rows = [[2 * lam + beta, -beta, -2 * lam], [-beta, beta, 1.0], [-2 * lam, 1.0, 2 * lam]]
    mu = float(torch.linalg.eigvalsh(torch.tensor(rows, dtype=torch.float64))[0])
    c4 = 0.5 * min(1 / rate for rate in rates.values())
    return 1 - c4 * min(rates.values()) ** 2 * mu / 3


def path(searcher: Searcher, steps: int) -> Path:
    """(α, weight) before every step and after the last; for RARTS the weight is u."""
    out = []
    for _ in range(steps):
        w, alpha = point(searcher)
        out.append((alpha, w))
        searcher.step("a", "p")
    w, alpha = point(searcher)
    return [*out, (alpha, w)]


def rarts_path(lam: float, beta: float, u: float) -> Path:
    """The path of RARTS from w = −2, α = 2 and a given u, at learning rates below (2.15)."""
    rates = {role: 0.999 * rate for role, rate in bounds(lam, beta).items()}
    searcher: RARTS = rarts(lam, beta, rates, (START[0], u, START[1]))
    steps = math.ceil(math.log(1e-3) / math.log(contraction(lam, beta, rates)))
    return path(searcher, steps)


def other_path(name: str) -> Path:
    """The path of a searcher with one copy of the weights."""
    kind, settings, _ = OTHERS[name]
    return path(other(kind, RATE, START, **settings), 1500)
