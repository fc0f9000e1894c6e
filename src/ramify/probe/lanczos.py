"""Extreme eigenpairs of many small symmetric matrices at once.

Shape letters: `W` channels of a group, `D` parameters of one channel, `K` Lanczos steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ramify import distributed
from ramify.errors import RamifyError

FLOOR = 1e-3
"""The smallest radius, as a share of the group's largest, that residuals are measured by."""
Vectors = list[Tensor]
"""One (W, D) matrix per group: one vector per channel."""


@dataclass(frozen=True)
class Extremes:
    """The extreme eigenpairs of every channel of one group: values (W,), unit vectors (W, D)."""

    low: Tensor
    low_vector: Tensor
    high: Tensor
    high_vector: Tensor


def exact_extremes(matrices: Tensor) -> Extremes:
    """Extreme eigenpairs of symmetric matrices of shape (W, D, D), by full decomposition.

    Args:
        matrices: symmetric up to rounding.

    Returns:
        Values (W,) and unit vectors (W, D).

    Raises:
        RamifyError: a matrix has an entry that is NaN or infinite.
    """
    symmetric = _wide((matrices + matrices.mT) / 2)
    _check_finite([symmetric])
    values, vectors = torch.linalg.eigh(symmetric)
    return Extremes(values[:, 0], vectors[:, :, 0], values[:, -1], vectors[:, :, -1])


def lanczos_extremes(
    product: Callable[[Vectors], Vectors],
    shapes: Sequence[tuple[int, int]],
    like: Tensor,
    *,
    tolerance: float = 1e-3,
    most: int = 64,
    seed: int = 0,
) -> list[Extremes]:
    r"""Extreme eigenpairs of every channel of every group, from matrix-vector products only.

    Every channel runs its own Lanczos recurrence with full reorthogonalisation, all advanced by the
    same product; memory is K times that of the vectors. A Ritz pair's residual is
    :math:`r = |\beta_K s_K|`; the run stops when both ends of every channel have residuals below
    `tolerance` times the channel's spectral radius, or when the Krylov space is exhausted. The
    error of the value is smaller, about :math:`r^2` over the gap to the next one, unless the random
    start is nearly orthogonal to the true extreme vector. A channel whose radius is below `FLOOR`
    of the group's largest is measured by that instead: its possible gain is negligible among the
    others.

    Args:
        product: S·v for one vector per channel: list of (W, D) -> list of (W, D).
        shapes: (W, D) of each group.
        like: a tensor with the dtype and device of the vectors.
        tolerance: largest residual over spectral radius.
        most: largest number of products.
        seed: the seed of the start vectors.

    Returns:
        The extreme pairs of each group.

    Raises:
        RamifyError: a product has an entry that is NaN or infinite.

    Source: C. Lanczos (1950); residual bound and reorthogonalisation as in Parlett, The Symmetric
    Eigenvalue Problem, chapter 13.
    """
    generator = torch.Generator().manual_seed(seed)
    runs = [_Run(width, size, like, generator) for width, size in shapes]
    for _ in range(most):
        results = product([run.next for run in runs])
        _check_finite(results)
        for run, result in zip(runs, results, strict=True):
            run.advance(result)
        if distributed.all_true(all(run.residual() <= tolerance for run in runs)):
            break
    return [run.extremes() for run in runs]


def _check_finite(tensors: Sequence[Tensor]) -> None:
    """Check that a matrix or product has no NaN or infinite entry, which solvers do not accept."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise RamifyError(
            "a second derivative of the loss is NaN or infinite, although the loss is "
            "not: look for a division by zero, a square root of 0 or an overflow in the forward "
            "pass, also in what torch.where leaves out; torch.autograd.detect_anomaly() finds it "
            "in a backward pass"
        )


def _wide(tensor: Tensor) -> Tensor:
    """Half precision as float32, since decompositions do not support it."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class _Run:
    """The Lanczos recurrences of one group."""

    def __init__(self, width: int, size: int, like: Tensor, generator: torch.Generator) -> None:
        self._size = size
        self._generator = generator
        self._like = _wide(like)
        self._basis: list[Tensor] = []
        self._alpha: list[Tensor] = []
        self._beta: list[Tensor] = []
        self._tiny = 1e3 * torch.finfo(self._like.dtype).eps
        self.next = self._fresh(width)

    def done(self) -> bool:
        """Whether the Krylov space is the whole space."""
        return len(self._basis) == self._size

    def _fresh(self, width: int) -> Tensor:
        start = torch.randn(width, self._size, generator=self._generator, dtype=torch.float64)
        vector = self._orthogonal(start.to(self._like))
        return vector / vector.norm(dim=1, keepdim=True).clamp_min(1e-30)

    def _orthogonal(self, vector: Tensor) -> Tensor:
        for _ in range(2):  # twice is enough (Parlett)
            for other in self._basis:
                vector = vector - other * (vector * other).sum(1, keepdim=True)
        return vector

    def advance(self, result: Tensor) -> None:
        """One step of every channel, given S times its last vector."""
        if self.done():
            return
        vector, result = self.next, _wide(result)
        self._basis.append(vector)
        self._alpha.append((result * vector).sum(1))
        rest = self._orthogonal(result)
        beta = rest.norm(dim=1)
        self._beta.append(beta)
        if self.done():
            self.next = torch.zeros_like(vector)
            return
        # A channel whose Krylov space is closed continues in a new direction, decoupled.
        closed = beta <= self._tiny * self._scale()
        self._beta[-1] = torch.where(closed, torch.zeros_like(beta), beta)
        step = rest / beta.clamp_min(1e-30)[:, None]
        self.next = torch.where(closed[:, None], self._fresh(len(vector)), step)

    def _scale(self) -> Tensor:
        sizes = torch.stack([a.abs() for a in self._alpha] + [b.abs() for b in self._beta])
        return sizes.max(0).values.clamp_min(1e-30)

    def _ritz(self) -> tuple[Tensor, Tensor]:
        steps = len(self._alpha)
        matrix = torch.zeros(len(self._alpha[0]), steps, steps).to(self._alpha[0])
        for k in range(steps):
            matrix[:, k, k] = self._alpha[k]
            if k + 1 < steps:
                matrix[:, k, k + 1] = matrix[:, k + 1, k] = self._beta[k]
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors

    def residual(self) -> float:
        """The largest residual of an extreme pair over its channel's spectral radius."""
        if self.done():
            return 0.0
        if len(self._alpha) < min(3, self._size):
            return float("inf")
        values, vectors = self._ritz()
        radius = values.abs().amax(1)
        radius = radius.clamp_min(max(FLOOR * float(radius.max()), 1e-30))
        ends = (vectors[:, -1, [0, -1]] * self._beta[-1][:, None]).abs()
        return float((ends / radius[:, None]).max())

    def extremes(self) -> Extremes:
        """The Ritz pairs at both ends."""
        values, vectors = self._ritz()
        basis = torch.stack(self._basis, dim=1)
        full = torch.einsum("wkd,wkn->wnd", basis, vectors[:, :, [0, -1]])
        full = full / full.norm(dim=2, keepdim=True).clamp_min(1e-30)
        return Extremes(values[:, 0], full[:, 0], values[:, -1], full[:, 1])
