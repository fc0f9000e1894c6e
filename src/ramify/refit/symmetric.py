"""Symmetric matrices: products of which one half is computed, and Cholesky factors.

Shape letters: `G` matrices, `F` their size, `R` what a product sums over.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 256
"""So many rows of a product are made at a time."""
RAISE = 256.0
"""What is added to a diagonal grows by this factor until it is enough."""


def products(a: Tensor, b: Tensor) -> Tensor:
    """(G, F, F), the products of the rows of (G, F, R) and (G, F, R), where these are symmetric.

    Args:
        a: (G, F, R).
        b: (G, F, R), such that `a @ b^T` is symmetric.

    Returns:
        The upper half of the product, mirrored.
    """
    size = a.shape[1]
    if size <= BLOCK:
        return a @ b.transpose(1, 2)
    out = a.new_empty((len(a), size, size))
    for start in range(0, size, BLOCK):
        stop = start + BLOCK
        some = a[:, start:stop] @ b[:, start:].transpose(1, 2)
        out[:, start:stop, start:] = some
        out[:, stop:, start:stop] = some[:, :, BLOCK:].transpose(1, 2)
    return out


def factor(matrices: Tensor) -> Tensor:
    """The Cholesky factors of matrices that are positive definite, or are but for rounding.

    Where few features vary, rounding leaves eigenvalues below 0, and those that should be λ are
    noise. What is added to the diagonal then is the least of several sizes that makes it positive.

    Args:
        matrices: (G, F, F).

    Returns:
        (G, F, F), lower triangles; not finite where the matrix is not.
    """
    lower, failed = torch.linalg.cholesky_ex(matrices)
    size = matrices.shape[1]
    largest = matrices.diagonal(dim1=1, dim2=2).amax(1)
    added, noise = torch.zeros_like(largest), size * torch.finfo(matrices.dtype).eps
    while bool(failed.any()) and noise < size:  # the trace is more than any eigenvalue can lack
        added = torch.where(failed > 0, noise * largest, added)
        raised = matrices.clone()
        raised.diagonal(dim1=1, dim2=2).add_(added[:, None])
        lower, failed = torch.linalg.cholesky_ex(raised)
        noise *= RAISE
    lower[failed > 0] = torch.nan
    return lower
