r"""The ridge solution: the weight that best restores the target, close to the original weight.

.. math:: W' = \arg\min_W \; \tfrac1R \sum_r \lVert W \phi_r + b - y_r \rVert^2
               + \lambda \, \bar a \, \lVert W - W_K \rVert^2
             = (A + \lambda \bar a I)^{-1} (B + \lambda \bar a W_K)

with :math:`A` and :math:`B` the covariances of the inputs with themselves and with the targets, and
:math:`\bar a` the mean of A's diagonal, so that λ has no unit. Without a bias, A and B are second
moments about zero.

Shape letters: `G` groups, `F` features, `O` outputs.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ramify.refit.moments import Moments
from ramify.refit.symmetric import LARGE, bearable, cholesky_factors

STRENGTHS = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The λ that are tried, in units of the mean diagonal of A."""
ROUNDING = 1e-5
"""A smaller λ does not shrink a solution, and only avoids rounding errors."""
EXACT = 1e-12
"""A reader whose relative error on its targets is below this has lost nothing."""

ROUGHLY = 1e5
"""To compare λ, matrices of a smaller condition number are solved in single precision."""

OUTPUTS = 4096
"""The number of outputs solved for at once, to save memory."""

MIXES = 64
"""With more outputs than this, λ is chosen by this number of random mixes of them."""


@dataclass(frozen=True)
class Solution:
    """A reader's new weight.

    Attributes:
        weight: (G, F, O).
        bias: (G, O); zeros where the reader has none.
        strength: λ.
        before: mean square error of the original weight, over the variance of the targets.
        after: the same for the new weight, never larger.
    """

    weight: Tensor
    bias: Tensor
    strength: float
    before: float
    after: float


def solve(
    folds: Sequence[Moments],
    weight: Tensor,
    bias: Tensor | None,
    strengths: Sequence[float] | None = None,
) -> Solution:
    """The ridge solution with the best λ by cross-validation.

    Args:
        folds: the rows in parts; each is held out once while λ is chosen.
        weight: (G, F, O), the reader's current weight.
        bias: (G, O), the reader's current bias; None if it cannot have one.
        strengths: the λ to choose from; by default `STRENGTHS`, and one that only avoids rounding
            errors: if channels are combinations of others, nothing is lost.

    Returns:
        The solution; the current weight if nothing is better.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    strengths = strengths or (16 * torch.finfo(wide).eps, *STRENGTHS)
    inputs = functools.reduce(operator.add, (fold.of_outputs(slice(0)) for fold in folds))
    places = [slice(n, n + OUTPUTS) for n in range(0, weight.shape[2], OUTPUTS)]

    def some(place: slice) -> tuple[Moments, Tensor, Tensor | None]:
        parts = (fold.of_outputs(place) for fold in folds)
        targets = zip(*((part.y, part.xy, part.yy) for part in parts), strict=True)
        y, xy, yy = (functools.reduce(operator.add, each) for each in targets)
        shift = None if bias is None else bias[:, place].double()
        return replace(inputs, y=y, xy=xy, yy=yy), weight[:, :, place].double(), shift

    error = max(sum(_error(*some(place)) for place in places), 0.0)  # negative only by rounding
    scale = _spread(folds) or max(error, sys.float_info.min)
    before = error / scale
    chosen = float("nan")
    if before > EXACT:
        chosen = best_strength(folds, weight.double(), bias is not None, strengths)
        new, moved = torch.empty_like(weight, dtype=wide), torch.zeros_like(folds[0].y)
        left = 0.0
        for place in places:
            own, old, _ = some(place)
            made, shift = ridge(own, old, chosen, bias is not None)
            left += _error(own, made, shift)
            new[:, :, place] = made
            if shift is not None:
                moved[:, place] = shift
        best = max(left, 0.0) / scale
        if best < before and bool(torch.isfinite(new).all()):
            return Solution(new, moved, chosen, before, best)
    kept = torch.zeros_like(folds[0].y) if bias is None else bias
    return Solution(weight, kept, chosen, before, before)


def ridge(
    moments: Moments, weight: Tensor, strength: float, centred: bool
) -> tuple[Tensor, Tensor | None]:
    """The ridge solution for one λ, and its bias.

    Args:
        moments: of the rows.
        weight: (G, F, O), the weight to stay close to.
        strength: λ.
        centred: whether there is a bias.

    Returns:
        The weight (G, F, O) and the bias (G, O); no bias if not centred.
    """
    return _Ridge(moments, weight, centred).at(strength)


class _Ridge:
    """What the ridge solutions for the same rows share for all λ."""

    def __init__(
        self, moments: Moments, weight: Tensor, centred: bool, roughly: bool = False
    ) -> None:
        self._a, b = covariances(moments, centred)
        mean = self._a.diagonal(dim1=1, dim2=2).mean(1)[:, None]
        self._mean = torch.where(mean > 0, mean, torch.ones_like(mean))
        self._missing = b - self._a @ weight
        self._x, self._y, self._rows = moments.x, moments.y, moments.rows
        self._weight, self._centred = weight, centred
        self._roughly = roughly

    def at(self, strength: float) -> tuple[Tensor, Tensor | None]:
        """The weight (G, F, O) and the bias (G, O) for one λ."""
        pull = strength * self._mean
        dtype = bearable(self._a, pull, ROUGHLY) if self._roughly else self._a.dtype
        pulled = self._a.to(dtype, copy=True)
        pulled.diagonal(dim1=1, dim2=2).add_(pull)
        # Relative to W_K, so that an exact weight stays exact to the last digit.
        new = torch.cholesky_solve(self._missing.to(pulled), cholesky_factors(pulled))
        new = self._weight + new.to(self._weight)
        if not self._centred:
            return new, None
        return new, (self._y - torch.einsum("gf,gfo->go", self._x, new)) / self._rows


def covariances(moments: Moments, centred: bool) -> tuple[Tensor, Tensor]:
    """A and B of some rows.

    Args:
        moments: of the rows.
        centred: whether to centre by the means.

    Returns:
        (G, F, F) and (G, F, O).
    """
    share = 1 / float(moments.rows.clamp_min(1))
    if not centred:
        return moments.xx * share, moments.xy * share
    x, y = share * moments.x, share * moments.y
    both = (moments.xx, x[:, None, :]), (moments.xy, y[:, None, :])
    a, b = (torch.baddbmm(m, x[:, :, None], z, beta=share, alpha=-1) for m, z in both)
    return a, b


def _error(moments: Moments, weight: Tensor, bias: Tensor | None) -> float:
    """Mean over rows of the square error, summed over outputs."""
    aw = moments.xx @ weight
    total = (weight * (aw - 2 * moments.xy)).sum() + moments.yy.sum()
    if bias is not None:
        made = torch.einsum("gf,gfo->go", moments.x, weight)
        total = total + (bias * (2 * (made - moments.y) + moments.rows * bias)).sum()
    return float(total / moments.rows)


def _spread(folds: Sequence[Moments]) -> float:
    """The variance of the targets, summed over outputs; for constant targets, their mean square."""
    rows = functools.reduce(operator.add, (fold.rows for fold in folds))
    y = functools.reduce(operator.add, (fold.y for fold in folds)) / rows
    yy = functools.reduce(operator.add, (fold.yy for fold in folds)) / rows
    square, spread = float(yy.sum()), float((yy - y.square()).sum())
    return spread if spread > EXACT * square else square


def best_strength(
    folds: Sequence[Moments], weight: Tensor, centred: bool, strengths: Sequence[float]
) -> float:
    """The λ with the least error on held-out folds.

    The error is assumed to fall and then rise with λ, except for the smallest λ. With many outputs
    the error of random mixes is used, which has the same mean; all λ are compared on the same
    mixes. To save time, only the first fold is held out for a large reader; on small readers the
    folds differ visibly.

    Args:
        folds: the rows in parts.
        weight: (G, F, O), the weight to stay close to.
        centred: whether there is a bias.
        strengths: the λ to choose from.

    Returns:
        The λ; with only one fold, the middle one.
    """
    full = [fold for fold in folds if float(fold.rows) > 0]
    if len(strengths) == 1 or len(full) < 2:
        return sorted(strengths)[len(strengths) // 2]
    if weight.shape[2] > MIXES:
        few = mixes(weight)
        full, weight = [_mixed(fold, few) for fold in full], weight @ few
    rest = [
        functools.reduce(operator.add, (other for other in full if other is not fold))
        for fold in full
    ]
    judges = slice(1 if weight.shape[1] >= LARGE else None)
    solutions = [
        (fold, _Ridge(own, weight, centred, roughly=True))
        for fold, own in zip(full[judges], rest[judges], strict=True)
    ]

    @functools.cache
    def error(place: int) -> float:
        each = ((fold, *ridge.at(rising[place])) for fold, ridge in solutions)
        return sum(_error(fold, new, bias) * float(fold.rows) for fold, new, bias in each)

    rising = sorted(strengths)
    rows = min(float(own.rows) for own in rest)
    if rising[0] < ROUNDING and rows < weight.shape[1]:  # too few to tell that nothing is lost
        rising = rising[1:]
    # If nothing is lost, a λ that does not shrink is best; else the error falls and then rises with
    # λ: start in the middle and follow the falling error.
    starts = [len(rising) // 2, 0] if rising[0] < ROUNDING else [len(rising) // 2]
    best = min(starts, key=error)
    for step in (-1, 1):
        while 0 <= best + step < len(rising) and error(best + step) < error(best):
            best += step
    return rising[best]


def mixes(weight: Tensor) -> Tensor:
    """(O, M), the mixes of the outputs of (G, F, O) by which λ is chosen."""
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randn(weight.shape[2], MIXES, generator=draw, dtype=torch.float64)
    return drawn.to(weight) / MIXES**0.5


def _mixed(fold: Moments, mixes: Tensor) -> Moments:
    """The moments for mixes of the outputs, without the squares of targets, constant in λ."""
    y, xy = fold.y @ mixes, fold.xy @ mixes
    return replace(fold, y=y, xy=xy, yy=torch.zeros_like(y))
