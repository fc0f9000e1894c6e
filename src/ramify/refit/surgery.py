r"""The loss from removing channels after a refit of their readers, and the order of removal.

Let a reader have weight :math:`W`, inputs with second moments :math:`A`, and a loss whose gradients
at its outputs have second moments :math:`G`. The rise of the loss for another weight is, to second
order and with A and G taken as independent (the Kronecker form of K-FAC),

.. math:: \tfrac12 \operatorname{tr}\bigl(G \, \Delta W A \, \Delta W^T\bigr),

and its minimum when the columns of a channel c are zero and the others are refitted is

.. math:: \tfrac12 \operatorname{tr}\bigl(Q_{cc} \, (H_{cc})^{-1}\bigr), \qquad
          H = (A + \lambda \bar a I)^{-1}, \quad Q = W^T G W,

after which both are updated as in optimal brain surgery. Channels are removed one after the other,
the cheapest first, so that after one of two interchangeable channels is removed, the other is
expensive.

Shape letters: `G` groups of a convolution, `F` features, `C` channels, `K` features of one channel.

Source: B. Hassibi and D. Stork, "Second order derivatives for network pruning: optimal brain
surgeon", 1993; J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored
approximate curvature", 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ramify.refit.symmetric import LARGE, cholesky_factors, products

POOL = 8
"""Candidates at a time: the cheapest eighth of the remaining channels, or at least this many."""
SINGLE = 1e-3
"""Large matrices use single precision if their ridge term is this share of their diagonal."""
LATER = 0.25
"""Removals are carried out when they reach this share of the features."""


@dataclass(frozen=True)
class Removed:
    r"""What the removal of R features B subtracts from H and Q.

    .. math:: H - H_{:B} H_{BB}^{-1} H_{B:} = H - K V^T, \qquad
              Q - K C^T - C K^T, \quad C = Q_{:B} - \tfrac12 K Q_{BB}

    Attributes:
        share: (G, R, F), K^T.
        column: (G, R, F), V^T.
        cross: (G, R, F), C^T.
    """

    share: Tensor
    column: Tensor
    cross: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Removed:
        """An empty removal, for matrices like these."""
        nothing = like[:, :0]
        return cls(nothing, nothing, nothing)

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """K^T, V^T and C^T."""
        return self.share, self.column, self.cross

    def of(self, features: Tensor) -> Removed:
        """The part for some of the features (G, B)."""
        return Removed(*(_columns(part, features) for part in self.parts()))

    def and_then(self, other: Removed) -> Removed:
        """Both removals."""
        pairs = zip(self.parts(), other.parts(), strict=True)
        return Removed(*(torch.cat(pair, 1) for pair in pairs))

    def squares(self, where: Tensor) -> Tensor:
        """(2, G, C, K, K), what is subtracted from the squares of channels (G, C, K)."""
        some = self.of(where.flatten(1)).parts()
        shape = (*self.share.shape[:2], *where.shape[1:])
        share, column, cross = (part.view(shape).permute(0, 2, 3, 1) for part in some)
        mixed = share @ cross.transpose(2, 3)
        return torch.stack([share @ column.transpose(2, 3), mixed + mixed.transpose(2, 3)])


def curvature_of(weight: Tensor, gradients: Tensor) -> Callable[[torch.dtype], Tensor]:
    """Return a function that computes Q = W G W^T in a given type.

    Args:
        weight: (G, F, O), W.
        gradients: (G, O, O), G.

    Returns:
        A function of the type.
    """

    def found(dtype: torch.dtype) -> Tensor:
        own = weight.to(dtype)
        return products(own @ gradients.to(dtype), own)

    return found


@dataclass
class ReaderState:
    """The state of one reader for the channels of a group.

    Removals are recorded, and carried out on the whole matrices when they reach a quarter of the
    features. Until then they are subtracted from the few rows that a step needs.

    Attributes:
        inverse: (G, F, F), H before the recorded removals.
        curvature: (G, F, F), Q before them.
        where: (G, C, K), the features of each remaining channel.
        removed: what these removals, of R features, subtract.
        squares: (2, G, C, K, K), the square of each channel with itself in H and in Q.
    """

    inverse: Tensor
    curvature: Tensor
    where: Tensor
    removed: Removed
    squares: Tensor

    @classmethod
    def of(
        cls,
        moments: Tensor,
        curvature: Callable[[torch.dtype], Tensor],
        where: Tensor,
        strength: float,
    ) -> ReaderState:
        """The state of a reader.

        Args:
            moments: (G, F, F), A.
            curvature: gives Q of all features, (G, F, F), in a given type.
            where: (G, C, K), the features of each channel.
            strength: λ.

        Returns:
            The state.
        """
        mean = moments.diagonal(dim1=1, dim2=2).mean(1)[:, None]
        pull = strength * torch.where(mean > 0, mean, torch.ones_like(mean))
        pulled = moments.clone()
        pulled.diagonal(dim1=1, dim2=2).add_(pull)
        inverse = torch.cholesky_inverse(cholesky_factors(pulled))
        # A square in H is at least the inverse of the largest diagonal entry of A, and no number in
        # H is above the inverse of the ridge term, so their ratio bounds the growth of rounding
        # errors. On a GPU, user settings may lower single precision further.
        largest = moments.diagonal(dim1=1, dim2=2).amax(1)[:, None]
        enough = bool((pull >= SINGLE * largest).all()) and moments.device.type == "cpu"
        if enough and inverse.shape[1] >= LARGE:
            inverse = inverse.float()
        return cls.begun(inverse, curvature(inverse.dtype), where)

    @classmethod
    def begun(cls, inverse: Tensor, curvature: Tensor, where: Tensor) -> ReaderState:
        """The state for (G, F, F) H and Q, with nothing removed."""
        squares = torch.stack([_diagonal(part, where) for part in (inverse, curvature)])
        return cls(inverse, curvature, where, Removed.none(inverse), squares)

    def costs(self) -> Tensor:
        """(C,), the cost of removing each channel alone."""
        h, q = self.squares
        if h.shape[-1] == 1:
            return 0.5 * (q / h).sum((0, 2, 3))
        return 0.5 * torch.linalg.solve(h, q).diagonal(dim1=2, dim2=3).sum((0, 2))

    def inside(self, channels: Tensor) -> ReaderState:
        """The state of some channels only."""
        rows = self.where[:, channels].flatten(1)  # (G, N K)
        size = self.where.shape[2]
        place = torch.arange(rows.shape[1], device=rows.device).view(1, len(channels), size)
        h, q = self._now(rows)
        where = place.expand(len(rows), -1, -1)
        return ReaderState.begun(_columns(h, rows), _columns(q, rows), where)

    def remove(self, channels: Tensor) -> None:
        """Remove these channels, refit the others, and renumber the channels."""
        rows = self.where[:, channels].flatten(1)  # (G, B)
        left = torch.ones(self.where.shape[1], dtype=torch.bool, device=rows.device)
        left[channels] = False
        self.where = self.where[:, left]
        h, q = self._now(rows)
        share = torch.linalg.solve(_columns(h, rows), h)  # K^T = H_BB^-1 H_B:
        cross = q - 0.5 * _columns(q, rows) @ share
        gone = Removed(share, h, cross)
        self.squares = self.squares[:, :, left] - gone.squares(self.where)
        self.removed = self.removed.and_then(gone)
        if self.removed.share.shape[1] >= LATER * self.inverse.shape[1]:
            self._carry_out()

    def _now(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(G, B, F), some rows of the current H and Q."""
        some = self.removed.of(rows)
        h = _rows(self.inverse, rows) - some.share.transpose(1, 2) @ self.removed.column
        q = _rows(self.curvature, rows) - some.share.transpose(1, 2) @ self.removed.cross
        return h, q - some.cross.transpose(1, 2) @ self.removed.share

    def _carry_out(self) -> None:
        """Subtract the recorded removals, and renumber what is left."""
        others = self.where.flatten(1)
        share, column, cross = (part.transpose(1, 2) for part in self.removed.of(others).parts())
        self.inverse = _columns(_rows(self.inverse, others), others) - products(share, column)
        both, crossed = torch.cat([share, cross], 2), torch.cat([cross, share], 2)
        self.curvature = _columns(_rows(self.curvature, others), others) - products(both, crossed)
        self.removed = Removed.none(self.inverse)
        place = torch.arange(others.shape[1], device=others.device)
        self.where = place.view(1, *self.where.shape[1:]).expand(self.where.shape)


def _rows(matrices: Tensor, rows: Tensor) -> Tensor:
    """(G, B, F), some rows of each matrix."""
    return matrices[torch.arange(len(matrices), device=rows.device)[:, None], rows]


def _columns(matrices: Tensor, columns: Tensor) -> Tensor:
    """(G, R, B), some columns of each matrix (G, R, F)."""
    return matrices.gather(2, columns[:, None].expand(-1, matrices.shape[1], -1))


def _diagonal(matrices: Tensor, where: Tensor) -> Tensor:
    """(G, C, K, K), the square of each channel with itself."""
    groups = torch.arange(len(matrices), device=where.device)[:, None, None, None]
    return matrices[groups, where[..., :, None], where[..., None, :]]


def eliminate(blocks: Sequence[ReaderState], left: int) -> tuple[list[int], list[float]]:
    """Remove channels one after the other, the cheapest first.

    Args:
        blocks: the readers of one group; they are changed.
        left: the number of channels to keep.

    Returns:
        The channels in the order of removal, and what each adds to the loss.
    """
    names = torch.arange(blocks[0].where.shape[1])
    order: list[int] = []
    costs: list[float] = []
    while len(names) > left:
        scores = torch.stack([block.costs() for block in blocks]).sum(0)
        size = min(max(POOL, len(names) // POOL), len(names))
        pool = torch.argsort(scores)[:size]
        inside = [block.inside(pool) for block in blocks]
        number = min((size + 1) // 2, len(names) - left)
        gone, added = (_one_by_one if _single(inside) else _in_blocks)(inside, number)
        picked = pool[gone]
        for block in blocks:
            block.remove(picked)
        order += names[picked.cpu()].tolist()
        costs += added
        staying = torch.ones(len(names), dtype=torch.bool)
        staying[picked.cpu()] = False
        names = names[staying]
    return order, costs


def _single(blocks: Sequence[ReaderState]) -> bool:
    """Whether every channel is one feature; `ReaderState.inside` has numbered them by channel."""
    return all(block.where.shape[2] == 1 for block in blocks)


def _one_by_one(blocks: Sequence[ReaderState], number: int) -> tuple[list[int], list[float]]:
    """The first `number` channels to remove, among a few channels of one feature each."""
    h = np.concatenate([block.inverse.cpu().numpy() for block in blocks])
    q = np.concatenate([block.curvature.cpu().numpy() for block in blocks])
    gone = np.zeros(h.shape[1])
    order, costs = [], []
    for _ in range(number):
        scores = 0.5 * (q.diagonal(0, 1, 2) / h.diagonal(0, 1, 2)).sum(0) + gone
        best = int(scores.argmin())
        order.append(best)
        costs.append(float(scores[best]))
        gone[best] = np.inf
        column, own = h[:, :, best], h[:, best, best]
        share = column / own[:, None]
        cross = q[:, :, best] - 0.5 * share * q[:, best, best][:, None]
        mixed = share[:, :, None] * cross[:, None, :]
        q = q - mixed - mixed.transpose(0, 2, 1)
        h = h - share[:, :, None] * column[:, None, :]
        h[:, best, best] = 1.0
    return order, costs


def _in_blocks(blocks: Sequence[ReaderState], number: int) -> tuple[list[int], list[float]]:
    """The same for channels of several features."""
    names = list(range(blocks[0].where.shape[1]))
    order, costs = [], []
    for _ in range(number):
        scores = torch.stack([block.costs() for block in blocks]).sum(0)
        best = int(scores.argmin())
        order.append(names.pop(best))
        costs.append(float(scores[best]))
        if names:
            for block in blocks:
                block.remove(torch.tensor([best], device=scores.device))
    return order, costs
