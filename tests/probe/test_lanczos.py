"""Batched Lanczos against full decompositions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ramify.probe.lanczos import Extremes, exact_extremes, lanczos_extremes


def symmetric(width: int, size: int, seed: int) -> Tensor:
    matrix = torch.randn(width, size, size, generator=torch.Generator().manual_seed(seed)).double()
    return matrix + matrix.mT


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
def test_lanczos_finds_both_ends(size: int) -> None:
    groups = [symmetric(5, size, 0), symmetric(3, max(1, size // 2), 1)]
    found = lanczos_extremes(
        lambda vectors: [
            (m @ v[:, :, None])[:, :, 0] for m, v in zip(groups, vectors, strict=True)
        ],
        [tuple(m.shape[:2]) for m in groups],
        groups[0],
        tolerance=1e-10,
        most=60,
    )
    for matrices, pairs in zip(groups, found, strict=True):
        true = exact_extremes(matrices)
        assert torch.allclose(pairs.low, true.low, atol=1e-9)
        assert torch.allclose(pairs.high, true.high, atol=1e-9)
        for value, vector in ((pairs.low, pairs.low_vector), (pairs.high, pairs.high_vector)):
            residual = (matrices @ vector[:, :, None])[:, :, 0] - value[:, None] * vector
            assert residual.abs().max() < 1e-7
            assert torch.allclose(vector.norm(dim=1), torch.ones(len(vector)).double())


def test_closed_krylov_spaces_go_on_in_a_fresh_direction() -> None:
    """Multiples of the identity, zero, and rank one: the space closes after one or two steps."""
    matrices = torch.stack(
        [torch.eye(6), torch.zeros(6, 6), torch.diag(torch.tensor([0, 0, 0, 0, 0, -4.0]))]
    ).double()
    (pairs,) = lanczos_extremes(
        lambda vectors: [(matrices @ vectors[0][:, :, None])[:, :, 0]],
        [(3, 6)],
        matrices,
        tolerance=1e-12,
    )
    assert torch.allclose(pairs.low, torch.tensor([1.0, 0.0, -4.0]).double(), atol=1e-10)
    assert torch.allclose(pairs.high, torch.tensor([1.0, 0.0, 0.0]).double(), atol=1e-10)


def test_lanczos_stops_by_residual() -> None:
    matrices, calls = symmetric(4, 50, 2), []

    def product(vectors: list[Tensor]) -> list[Tensor]:
        calls.append(1)
        return [(matrices @ vectors[0][:, :, None])[:, :, 0]]

    counts = []
    for tolerance in (1e-1, 1e-8):
        calls.clear()
        lanczos_extremes(product, [(4, 50)], matrices, tolerance=tolerance, most=60)
        counts.append(len(calls))
    assert 3 <= counts[0] < counts[1] <= 50


def counted(matrices: Tensor, **settings: float) -> tuple[int, Extremes]:
    """Passes until it stops, and what it found."""
    calls = []

    def product(vectors: list[Tensor]) -> list[Tensor]:
        calls.append(1)
        return [(matrices @ vectors[0][:, :, None])[:, :, 0]]

    (pairs,) = lanczos_extremes(product, [tuple(matrices.shape[:2])], matrices, **settings)
    return len(calls), pairs


@pytest.mark.parametrize("sign", [1, -1])
def test_an_end_at_zero_does_not_keep_the_run_going(sign: int) -> None:
    """Half of the eigenvalues are zero, so no pass makes the sign of that end sure."""
    torch.manual_seed(0)
    roots = torch.randn(6, 100, 50).double() * torch.logspace(0, -2, 50).double()
    matrices = sign * roots @ roots.mT
    passes, pairs = counted(matrices)
    true = exact_extremes(matrices)
    radius = torch.maximum(true.low.abs(), true.high.abs())
    assert passes <= 16
    for found, wanted in ((pairs.low, true.low), (pairs.high, true.high)):
        assert ((found - wanted).abs() <= 1e-3 * radius).all()


def test_dead_channels_are_measured_by_the_largest_of_their_group() -> None:
    torch.manual_seed(0)
    roots = torch.randn(6, 100, 50).double() * torch.logspace(0, -2, 50).double()
    matrices = roots @ roots.mT
    alone, _ = counted(matrices[1:])
    matrices[0] = 1e-6 * symmetric(1, 100, 0)[0] / 30  # all of its eigenvalues lie close
    passes, pairs = counted(matrices)
    assert passes <= alone + 2  # other random starts
    assert pairs.high[0].abs() <= 1e-6
    assert counted(matrices[:1])[0] > passes


def test_single_precision_reaches_a_thousandth_of_the_radius_in_sixteen_passes() -> None:
    """Few large eigenvalues of both signs and a bulk near zero, as splitting matrices have."""
    generator = torch.Generator().manual_seed(4)
    bases = torch.linalg.qr(torch.randn(200, 144, 144, generator=generator))[0]
    spectrum = torch.logspace(0, -4, 144) * torch.randn(200, 144, generator=generator)
    matrices = bases @ torch.diag_embed(spectrum) @ bases.mT
    passes, pairs = counted(matrices, most=16)
    true = exact_extremes(matrices.double())
    radius = torch.maximum(true.low.abs(), true.high.abs())
    assert passes <= 16
    errors = torch.maximum((pairs.low - true.low).abs(), (pairs.high - true.high).abs()) / radius
    assert (errors <= 1e-3).double().mean() >= 0.95  # the rest have a start that misses the end
    assert errors.max() <= 0.02
