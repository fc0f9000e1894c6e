"""Symmetric matrices: products computed by halves, and Cholesky factors.

Shape letters: `G` matrices, `F` their size, `R` the dimension that a product sums over.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 128
"""The number of rows of a product computed at a time."""
LARGE = 1024
"""Smaller matrices keep their precision."""
RAISE = 256.0
"""The factor by which the addition to a diagonal grows until it is large enough."""


def products(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b^T`, which must be symmetric; only its upper half is computed.

    Args:
        a: (G, F, R).
        b: (G, F, R), such that `a @ b^T` is symmetric.

    Returns:
        The upper half of the product, mirrored.
    """
    out = a.new_zeros((len(a), a.shape[1], a.shape[1]))
    add_upper(out, a, b)
    mirror(out)
    return out


def add_upper(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Add to the upper half of (G, F, F) that of the products of (G, F, R) and (G, F, R).

    When many products are added, the result needs to be mirrored only once.

    Args:
        out: (G, F, F), of the same or a wider type; unchanged below its diagonal blocks.
        a: (G, F, R).
        b: (G, F, R), such that `a @ b^T` is symmetric.
    """
    for start in range(0, a.shape[1], BLOCK):
        stop = start + BLOCK
        out[:, start:stop, start:] += a[:, start:stop] @ b[:, start:].transpose(1, 2)


def mirror(matrices: Tensor) -> None:
    """Mirror the upper half of (G, F, F) below the diagonal blocks, in place."""
    for start in range(0, matrices.shape[1], BLOCK):
        stop = start + BLOCK
        matrices[:, stop:, start:stop] = matrices[:, start:stop, stop:].transpose(1, 2)


def bearable(matrices: Tensor, pull: Tensor, most: float) -> torch.dtype:
    """Single precision for large matrices that it suffices for, else the matrices' own type.

    Args:
        matrices: (G, F, F), positive semidefinite.
        pull: (G, 1), what will be added to their diagonals.
        most: the largest condition number for single precision.

    Returns:
        The type. The condition number is at most 1 plus the Frobenius norm over the addition.
    """
    if matrices.shape[1] < LARGE:
        return matrices.dtype
    condition = 1 + matrices.flatten(1).norm(dim=1, keepdim=True) / pull
    return torch.float32 if bool((condition < most).all()) else matrices.dtype


def cholesky_factors(matrices: Tensor) -> Tensor:
    """The Cholesky factors of matrices that are positive definite up to rounding.

    Where few features vary, rounding gives eigenvalues below 0, and those that should be λ are
    noise. The smallest of several additions to the diagonal that makes the matrix positive is used.

    Args:
        matrices: (G, F, F).

    Returns:
        (G, F, F), lower triangles; not finite if the matrix is not.
    """
    lower, failed = torch.linalg.cholesky_ex(matrices)
    size = matrices.shape[1]
    largest = matrices.diagonal(dim1=1, dim2=2).amax(1)
    added, noise = torch.zeros_like(largest), size * torch.finfo(matrices.dtype).eps
    while bool(failed.any()) and noise < size:  # adding the trace is always enough
        added = torch.where(failed > 0, noise * largest, added)
        raised = matrices.clone()
        raised.diagonal(dim1=1, dim2=2).add_(added[:, None])
        lower, failed = torch.linalg.cholesky_ex(raised)
        noise *= RAISE
    lower[failed > 0] = torch.nan
    return lower
