r"""What it costs to remove channels once their readers have been refitted, and in which order.

Let a reader have weight :math:`W`, reads with second moments :math:`A`, and a loss whose gradients
at its outputs have second moments :math:`G`. The loss of another weight is, to second order and
with A and G taken as independent (the Kronecker form of K-FAC),

.. math:: \tfrac12 \operatorname{tr}\bigl(G \, \Delta W A \, \Delta W^T\bigr),

and the least that it can be when the columns of a channel c are zero, the others having taken over,

.. math:: \tfrac12 \operatorname{tr}\bigl(Q_{cc} \, (H_{cc})^{-1}\bigr), \qquad
          H = (A + \lambda \bar a I)^{-1}, \quad Q = W^T G W,

after which both are updated as in optimal brain surgery. Channels go one after the other, each the
cheapest at its turn, so that the second of two that stand in for each other is known to be dear.

Shape letters: `G` groups of a convolution, `F` features, `C` channels, `K` features of one channel.

Source: B. Hassibi and D. Stork, "Second order derivatives for network pruning: optimal brain
surgeon", 1993; J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored
approximate curvature", 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

POOL = 8
"""Candidates at a time: the cheapest eighth of the channels left, or at least this many."""


@dataclass
class Block:
    """What one reader knows of the channels of a group.

    Attributes:
        inverse: (G, F, F), H.
        curvature: (G, F, F), Q.
        where: (G, C, K), the features of each channel.
    """

    inverse: Tensor
    curvature: Tensor
    where: Tensor

    @classmethod
    def of(
        cls, moments: Tensor, weight: Tensor, gradients: Tensor, where: Tensor, strength: float
    ) -> Block:
        """The block of a reader.

        Args:
            moments: (G, F, F), A.
            weight: (G, F, O).
            gradients: (G, O, O), G.
            where: (G, C, K), the features of each channel.
            strength: λ.

        Returns:
            The block.
        """
        mean = moments.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        eye = torch.eye(moments.shape[1], dtype=moments.dtype, device=moments.device)
        pull = strength * torch.where(mean > 0, mean, torch.ones_like(mean))
        inverse = _inverse(moments + pull * eye)
        return cls(inverse, weight @ gradients @ weight.transpose(1, 2), where)

    def costs(self) -> Tensor:
        """(C,), what each channel costs alone."""
        h, q = (_diagonal(part, self.where) for part in (self.inverse, self.curvature))
        if h.shape[-1] == 1:
            return 0.5 * (q / h).sum((0, 2, 3))
        return 0.5 * torch.linalg.solve(h, q).diagonal(dim1=2, dim2=3).sum((0, 2))

    def inside(self, channels: Tensor) -> Block:
        """The block of some channels alone."""
        rows = self.where[:, channels].flatten(1)  # (G, N K)
        size = self.where.shape[2]
        place = torch.arange(rows.shape[1], device=rows.device).view(1, len(channels), size)
        pick = lambda part: _minor(part, rows, rows)  # noqa: E731
        return Block(
            pick(self.inverse), pick(self.curvature), place.expand(len(rows), -1, -1).clone()
        )

    def remove(self, channels: Tensor) -> None:
        """Let the others take over from these channels, and be numbered anew without them."""
        rows = self.where[:, channels].flatten(1)  # (G, B)
        left = torch.ones(self.where.shape[1], dtype=torch.bool, device=rows.device)
        left[channels] = False
        staying = self.where[:, left]
        others = staying.flatten(1)
        columns = _minor(self.inverse, others, rows)  # (G, F', B)
        share = torch.linalg.solve(_minor(self.inverse, rows, rows), columns.transpose(1, 2))
        share = share.transpose(1, 2)  # K = H_:B H_BB^-1
        cross = _minor(self.curvature, others, rows)
        cross = cross - 0.5 * share @ _minor(self.curvature, rows, rows)
        mixed = share @ cross.transpose(1, 2)
        self.curvature = _minor(self.curvature, others, others) - mixed - mixed.transpose(1, 2)
        self.inverse = _minor(self.inverse, others, others) - share @ columns.transpose(1, 2)
        place = torch.arange(others.shape[1], device=rows.device)
        self.where = place.view(1, *staying.shape[1:]).expand(staying.shape)


def _inverse(matrices: Tensor) -> Tensor:
    """The inverse of positive definite matrices (G, F, F)."""
    factor, info = torch.linalg.cholesky_ex(matrices)
    if bool((info == 0).all()):
        return torch.cholesky_inverse(factor)
    # Where few features vary, rounding leaves eigenvalues below 0, and those that should be λ are
    # noise. They are raised to what can be told from it.
    values, vectors = torch.linalg.eigh(matrices)
    noise = values.amax(1, keepdim=True) * matrices.shape[1] * torch.finfo(matrices.dtype).eps
    values = torch.maximum(values, noise)
    return (vectors / values[:, None, :]) @ vectors.transpose(1, 2)


def _minor(matrices: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(G, R, B), some rows and columns of each matrix."""
    groups = torch.arange(len(matrices), device=rows.device)[:, None, None]
    return matrices[groups, rows[:, :, None], columns[:, None, :]]


def _diagonal(matrices: Tensor, where: Tensor) -> Tensor:
    """(G, C, K, K), the square of each channel with itself."""
    groups = torch.arange(len(matrices), device=where.device)[:, None, None, None]
    return matrices[groups, where[..., :, None], where[..., None, :]]


def eliminate(blocks: Sequence[Block], left: int) -> tuple[list[int], list[float]]:
    """Remove channels one after the other, each the cheapest at its turn.

    Args:
        blocks: the readers of one group; they are used up.
        left: how many channels stay.

    Returns:
        The channels in the order in which they go, and what each adds to the loss.
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


def _single(blocks: Sequence[Block]) -> bool:
    """Whether every channel is one feature everywhere, and they stand in order."""
    return all(block.where.shape[2] == 1 for block in blocks)


def _one_by_one(blocks: Sequence[Block], number: int) -> tuple[list[int], list[float]]:
    """The first so many to go among a few channels of one feature each."""
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


def _in_blocks(blocks: Sequence[Block], number: int) -> tuple[list[int], list[float]]:
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
