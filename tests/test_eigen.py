"""Batched Lanczos against full decompositions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ramify.eigen import exact_extremes, lanczos_extremes


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
