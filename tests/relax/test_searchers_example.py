"""Searchers on the solvable model, against closed forms (RARTS thesis, Examples 2.4 and 2.7)."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD

from experiments.rarts.example_2_4.problem import (
    SMOOTHNESS,
    Solvable,
    auxiliary,
    bounds,
    closed_form,
    contraction,
    curvatures,
    least_lagrangian,
    loss,
    other,
    point,
    rarts,
)
from ramify.relax import DARTS, RARTS, Joint, MiLeNAS, Searcher


def run(searcher: Searcher, steps: int) -> tuple[float, float]:
    for _ in range(steps):
        searcher.step("a", "p")
    return point(searcher)


@pytest.mark.parametrize("lam, beta", [*itertools.product((1, 2, 10, 30), (2, 10)), (2, 30)])
def test_rarts_reaches_the_closed_form(lam: float, beta: float) -> None:
    rates = curvatures(lam, beta)
    searcher = rarts(lam, beta, rates)
    steps = math.ceil(math.log(1e-10) / math.log(contraction(lam, beta, rates)))
    u, alpha = run(searcher, steps)
    assert (auxiliary(searcher), u, alpha) == pytest.approx(closed_form(lam, beta), abs=1e-8)


def test_the_error_of_the_limit_falls_as_both_weights_grow() -> None:
    ratios = []
    for lam, beta in itertools.product((5, 50, 500, 5000), (5, 50, 500, 5000)):
        error = max(abs(value - 1) for value in closed_form(lam, beta))
        ratios.append(error / (1 / lam + 1 / beta))
    assert max(ratios) < 1.2
    assert closed_form(1e9, 1e9) == pytest.approx((1, 1, 1), abs=1e-8)


@pytest.mark.parametrize("kind, settings", [(DARTS, {}), (MiLeNAS, {}), (MiLeNAS, {"lam": 0.3})])
def test_one_copy_goes_to_a_spurious_point(kind: Any, settings: dict[str, float]) -> None:
    assert run(other(kind, 0.2, **settings), 1000) == pytest.approx((2, 2), abs=1e-8)


def test_joint_training_goes_to_the_minimum_of_the_sum() -> None:
    found = run(other(Joint, 0.2), 200)  # of w² − αw + α² − 2α + 1
    assert found == pytest.approx((2 / 3, 4 / 3), abs=1e-8)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("xi", [0.0, 0.1, 0.5, 1.0])
def test_second_order_goes_to_a_point_that_hangs_on_xi(xi: float, exact: bool) -> None:
    limit = 2 / (1 + 2 * xi)
    found = run(other(DARTS, 0.2, order=2, xi=xi, exact=exact), 500)
    assert found == pytest.approx((limit, limit), abs=1e-8)


def test_xi_is_the_learning_rate_of_the_weights_by_default() -> None:
    assert run(other(DARTS, 0.1, order=2), 500)[1] == pytest.approx(2 / 1.2, abs=1e-8)


@pytest.mark.parametrize("lam, beta", [(1, 2), (10, 10), (50, 2), (2, 50)])
@pytest.mark.parametrize("start", [(0.0, 0.0, 2.0), (-7.0, 3.0, 5.0)])
def test_the_lagrangian_never_rises_within_the_bounds(
    lam: float, beta: float, start: tuple[float, float, float]
) -> None:
    rates = {role: 0.999 * rate for role, rate in bounds(lam, beta).items()}
    searcher = rarts(lam, beta, rates, start)
    values = []
    for _ in range(150):
        values.append(searcher.lagrangian("a", "p"))
        searcher.step("a", "p")
    scale = max(map(abs, values))
    assert all(b <= a + 1e-15 * scale for a, b in itertools.pairwise(values))
    assert values[-1] < values[0]


def test_the_lagrangian_rises_far_beyond_the_bounds() -> None:
    searcher = rarts(10, 10, {role: 10 * rate for role, rate in bounds(10, 10).items()})
    before = searcher.lagrangian("a", "p")
    run(searcher, 20)
    assert searcher.lagrangian("a", "p") > before


def test_convergence_is_linear_at_the_rate_of_the_hessian() -> None:
    lam, beta = 2.0, 10.0
    rates = bounds(lam, beta)
    searcher = rarts(lam, beta, rates)
    least = least_lagrangian(lam, beta)
    gaps = []
    for _ in range(250):
        searcher.step("a", "p")
        gaps.append(searcher.lagrangian("a", "p") - least)
    ratios = [b / a for a, b in itertools.pairwise(gaps)][100:]
    assert min(gaps) > 1e-11  # far above rounding
    expected = contraction(lam, beta, rates) ** 2
    assert ratios == pytest.approx([expected] * len(ratios), rel=1e-3)
    rows = [[2 * lam + beta, -beta, -2 * lam], [-beta, beta, 1], [-2 * lam, 1, 2 * lam]]
    least_eigenvalue = float(torch.linalg.eigvalsh(torch.tensor(rows).double())[0])
    c4 = 0.5 * min(1 / rate for rate in rates.values())  # of (2.20)
    assert ratios[-1] < 1 - c4 * min(rates.values()) ** 2 * least_eigenvalue / 3  # Corollary 2.6


def test_smoothness_is_that_of_both_losses() -> None:
    model, top = Solvable(), []
    for half in "ap":

        def value(w: torch.Tensor, alpha: torch.Tensor, half: str = half) -> torch.Tensor:
            at = {"w": w, "alpha": alpha}
            found: torch.Tensor = torch.func.functional_call(model, at, (half,))
            return found

        zero = torch.zeros((), dtype=torch.float64)
        rows: Any = torch.autograd.functional.hessian(value, (zero, zero))
        hessian = torch.stack([torch.stack(row) for row in rows])
        top.append(float(torch.linalg.eigvalsh(hessian).abs().max()))
    assert top == pytest.approx([4, 1])
    assert max(top) == pytest.approx(SMOOTHNESS)


def test_the_penalty_is_in_the_lagrangian_and_in_the_step() -> None:
    model, sgd = Solvable(), partial(SGD, lr=0.05)
    searcher = RARTS(
        model,
        arch=model.alpha,
        loss=loss,
        lam=5.0,
        beta=5.0,
        gamma=0.5,
        penalty=lambda arch: arch[0].square(),
        weight_optimizer=sgd,
        arch_optimizer=sgd,
    )
    seen = [searcher.step("a", "p").penalty for _ in range(600)]
    hessian = torch.tensor([[15.0, -5, -10], [-5, 5, 1], [-10, 1, 11]], dtype=torch.float64)
    z = torch.linalg.solve(hessian, torch.tensor([0.0, 0, 2], dtype=torch.float64))  # (w, u, α)
    assert (auxiliary(searcher), *point(searcher)) == pytest.approx(z.tolist(), abs=1e-8)
    assert seen[-1] == pytest.approx(float(z[2]) ** 2)
    value = 1 - float(z[2])  # a quadratic at its minimum: half of its linear term, and the constant
    assert searcher.lagrangian("a", "p") == pytest.approx(value)
