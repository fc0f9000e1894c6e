"""S3D, Theorems 2.1 to 2.3, against a constrained optimiser over weights and directions.

Shape letters: `M` copies, `D` parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from ramify.methods.splitting import schemes

Array = NDArray[np.float64]
SIGNED = (1.0, 1.3, 3.0, 10.0)
COPIES = (2, 3, 4)
SLACK = 1e-8  # of the optimiser's constraints


def random_symmetric(rng: np.random.Generator) -> Array:
    half = rng.normal(size=(3, 3))
    return half + half.T


def with_ends(low: float, high: float) -> Callable[[np.random.Generator], Array]:
    def build(rng: np.random.Generator) -> Array:
        basis = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        return basis @ np.diag([low, rng.uniform(low, high), high]) @ basis.T

    return build


MATRICES: dict[str, Callable[[np.random.Generator], Array]] = {
    "random": random_symmetric,
    "between": with_ends(-0.5, 1.0),  # for c = 1.3 and 3 beyond Theorem 2.2
    "positive": with_ends(0.2, 1.0),
    "negative": with_ends(-1.0, -0.1),
    "zero": lambda rng: np.zeros((3, 3)),
}


class Problem:
    """Equation (6) of S3D with the weights' signs given: w = sign · |w|, (|w|, δ) in one vector."""

    def __init__(self, matrix: Array, signed: float, sign: Array) -> None:
        self.matrix, self.signed, self.sign = matrix, signed, sign
        self.m, self.d = len(sign), len(matrix)

    def parts(self, z: Array) -> tuple[Array, Array]:
        return self.sign * z[: self.m], z[self.m :].reshape(self.m, self.d)

    def form(self, z: Array) -> tuple[float, Array]:
        weights, moves = self.parts(z)
        forces = moves @ self.matrix
        values = (forces * moves).sum(1)
        return weights @ values, np.r_[self.sign * values, (2 * weights[:, None] * forces).ravel()]

    def equal(self, z: Array) -> Array:
        weights, moves = self.parts(z)
        return np.r_[weights.sum() - 1, weights @ moves]

    def equal_slope(self, z: Array) -> Array:
        weights, moves = self.parts(z)
        slope = np.zeros((self.d + 1, len(z)))
        slope[0, : self.m] = self.sign
        slope[1:, : self.m] = (self.sign[:, None] * moves).T
        slope[1:, self.m :] = np.kron(weights, np.eye(self.d))
        return slope

    def room(self, z: Array) -> Array:
        moves = self.parts(z)[1]
        return np.r_[self.signed - z[: self.m].sum(), 1 - (moves**2).sum(1)]

    def room_slope(self, z: Array) -> Array:
        slope = np.zeros((self.m + 1, len(z)))
        slope[0, : self.m] = -1
        for copy, move in enumerate(self.parts(z)[1]):
            start = self.m + copy * self.d
            slope[1 + copy, start : start + self.d] = -2 * move
        return slope

    def solve(self, rng: np.random.Generator) -> float:
        """The value that one random start ends at, 0 where it ends outside the constraints."""
        weights = rng.random(self.m)
        for sign, total in ((1, (self.signed + 1) / 2), (-1, (self.signed - 1) / 2)):
            alike = self.sign == sign
            weights[alike] *= total / max(weights[alike].sum(), SLACK)
        start = np.r_[weights, rng.normal(size=self.m * self.d) / 2]
        found = minimize(
            self.form,
            start,
            jac=True,
            method="SLSQP",
            bounds=[(0, self.signed)] * self.m + [(-1, 1)] * (self.m * self.d),
            constraints=[
                {"type": "eq", "fun": self.equal, "jac": self.equal_slope},
                {"type": "ineq", "fun": self.room, "jac": self.room_slope},
            ],
            options={"ftol": 1e-13, "maxiter": 300},
        )
        inside = abs(self.equal(found.x)).max() < SLACK and self.room(found.x).min() > -SLACK
        return float(found.fun) if inside else 0.0


def brute_force(matrix: Array, signed: float, copies: int, rng: np.random.Generator) -> float:
    """The lowest Π over many starts, of every number of negative weights."""
    negatives = range(copies if signed > 1 else 1)
    signs = [np.r_[np.ones(copies - n), -np.ones(n)] for n in negatives]
    problems = [Problem(matrix, signed, sign) for sign in signs]
    starts = 24 if copies == 4 and signed == 1.3 else 6  # a small weight is slow to find its move
    return min(problem.solve(rng) for problem in problems for _ in range(starts))


@pytest.mark.parametrize("kind", list(MATRICES))
@pytest.mark.parametrize("signed", SIGNED)
@pytest.mark.parametrize("copies", COPIES)
def test_no_weights_and_directions_gain_more(kind: str, signed: float, copies: int) -> None:
    rng = np.random.default_rng([copies, int(10 * signed)])
    matrix = MATRICES[kind](rng)
    matrix /= max(1.0, np.abs(np.linalg.eigvalsh(matrix)).max() * signed)
    values = np.linalg.eigvalsh(matrix)
    gain = min(schemes(values[0], values[-1], signed, (copies,))[0].gain, 0.0)
    assert gain == pytest.approx(brute_force(matrix, signed, copies, rng), abs=1e-6)


@pytest.mark.parametrize("kind", list(MATRICES))
@pytest.mark.parametrize("signed", SIGNED)
@pytest.mark.parametrize("copies", COPIES)
def test_schemes_keep_their_constraints_and_reach_their_gain(
    kind: str, signed: float, copies: int
) -> None:
    matrix = MATRICES[kind](np.random.default_rng(1))
    values, vectors = np.linalg.eigh(matrix)
    for scheme in schemes(values[0], values[-1], signed, (copies,)):
        weights = np.array(scheme.weights)
        moves = np.array(scheme.moves) @ vectors[:, [0, -1]].T
        assert len(weights) <= copies
        assert (weights != 0).all()
        assert weights.sum() == pytest.approx(1.0)
        assert np.abs(weights).sum() <= signed + 1e-12
        assert (moves**2).sum(1).max() <= 1 + 1e-12
        assert np.abs(weights @ moves).max() < 1e-12
        assert np.einsum("m,md,de,me", weights, moves, matrix, moves) == pytest.approx(scheme.gain)


@pytest.mark.parametrize("signed", [1.3, 3.0, 10.0])
@pytest.mark.parametrize("low, high", [(-2.0, 1.0), (-1.0, 2.0), (-1.0, 40.0), (0.5, 2.0)])
def test_gains_are_those_of_the_theorems(signed: float, low: float, high: float) -> None:
    c, gains = signed, {m: schemes(low, high, signed, (m,))[0].gain for m in COPIES}
    printed = min((c + 1) / 2 * low, -(c - 1) / 2 * high)
    assert gains[2] == pytest.approx(min(low, -(c - 1) / (c + 1) * high))
    assert gains[3] == pytest.approx(min(printed, (2 * c * low - (c - 1) * high) / (c + 1)))
    assert gains[4] == pytest.approx((c + 1) / 2 * min(low, 0) - (c - 1) / 2 * high)
    assert gains[4] <= gains[3] <= printed


def test_a_triplet_along_both_ends_beats_the_printed_ones() -> None:
    """S3D, Theorem 2.2, gives -1.5 and -1 here, by copies that move along one eigenvector."""
    best = schemes(-1.0, 1.0, 2.0, (3,))[0]
    assert best.gain == pytest.approx(-5 / 3)
    assert best.weights == pytest.approx((0.75, 0.75, -0.5))
    assert {scheme.gain for scheme in schemes(-1.0, 1.0, 2.0, (3,))} == {best.gain, -1.5, -0.5}


@pytest.mark.parametrize("low, high", [(-2.0, 9.0), (0.5, 2.0), (0.0, 0.0), (-3.0, -1.0)])
@pytest.mark.parametrize("copies", [(2,), (3,), (4,), (2, 3, 4)])
def test_c_1_is_the_half_and_half_split_of_s2d(
    low: float, high: float, copies: tuple[int, ...]
) -> None:
    (scheme,) = schemes(low, high, 1.0, copies)
    assert (scheme.gain, scheme.weights) == (low, (0.5, 0.5))
    assert scheme.moves == ((1, 0), (-1, 0))


def test_a_definite_matrix_needs_no_fourth_copy() -> None:
    assert [len(s.weights) for s in schemes(0.5, 2.0, 3.0, (4,))] == [3, 3]
    assert schemes(0.5, 2.0, 3.0, (4,))[0].gain == -2.0
    assert schemes(-2.0, -0.5, 3.0, (4,))[0].gain == -4.0
    assert len(schemes(-2.0, 0.5, 3.0, (4,))[0].weights) == 4
