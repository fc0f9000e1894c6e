"""The score of a cut: the cost of removing a channel after a refit of its readers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.cost import CostModel
from ramify.edit import Prune
from ramify.edit.plan import check_editable
from ramify.errors import RamifyError
from ramify.methods.proposal import Method, Proposal, best_first
from ramify.methods.scores import prunable
from ramify.probe.loss import Loss, check_real, check_weights, shaped_loss
from ramify.probe.reads import first_order
from ramify.refit.curvature import block_of, groups_in_parts, reads_of, strength_of, weight_of
from ramify.refit.surgery import eliminate
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.dims import Atom, atoms_of

NEGLIGIBLE = 1e-3
"""Losses are raised by this share of their batch's mean, since the residual of 0 has no slope."""
TINY = 1e-9
"""Keeps the slope finite where all losses are 0, and below the largest number of half precision."""


@dataclass(frozen=True)
class Takeover:
    r"""Prune the channels that the others can best replace.

    The channels of a group are removed one after the other, the cheapest first, and cost

    .. math:: \tfrac12 \sum_k \operatorname{tr}\bigl(Q^k_{cc} (H^k_{cc})^{-1}\bigr)

    with the sum over the group's readers (`surgery.py` defines H and Q, and how they change as
    channels are removed). The cost is in units of the loss, so that channels of all layers are
    comparable. A channel that a product of activations sums over (the dimensions of queries and
    keys), or that no weight of its own reads, cannot be replaced by others, and costs
    :math:`\tfrac12 \mathbb{E}_s\, p_s^2`, with p of Taylor pruning.

    The curvature is the empirical Fisher matrix of the losses :math:`\ell_s`,
    :math:`\mathbb{E}_s \nabla\ell_s \nabla\ell_s^T`, in which samples that the network is sure of
    count for almost nothing: those of a small cross-entropy in proportion to its square. With
    `residuals` it is the Gauss-Newton matrix of the residuals :math:`r_s = \sqrt{2 \ell_s}`, which
    is :math:`\mathbb{E}_s \nabla\ell_s \nabla\ell_s^T / 2 \ell_s`: they count for more, in
    proportion to the cross-entropy itself, and all samples of a squared error count alike. Which of
    both chooses better differs from network to network (`cut` tries both).

    Args:
        strength: λ of the ridge, in units of the mean diagonal of a reader's moments; None: the
            best λ of each reader by cross-validation.
        residuals: whether the loss of a sample, which may then not be negative, is taken as half of
            a squared residual.

    Source: optimal brain surgery with K-FAC's curvature; `surgery.py` cites both.
    """

    strength: float | None = None
    residuals: bool = False

    def __post_init__(self) -> None:
        if self.strength is not None and not self.strength > 0:
            raise RamifyError(f"strength (λ) must be above 0, or None, but got {self.strength}")

    def propose(
        self,
        graph: ChannelGraph,
        loss: Loss,
        batches: Iterable[Any],
        groups: Collection[str] | None = None,
    ) -> list[Proposal]:
        """A prune of every removable channel, least cost first.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the sample to average over.
            groups: the names of the groups to score; by default all. Layers that do not read their
                channels take no time or memory.

        Returns:
            The proposals; `gain` is minus the cost of the removal when all channels before it in
            its group are already removed, and never less than their cost.

        Raises:
            RamifyError: no batch, the loss is not per sample, loss or weights are not finite, or a
                loss is negative and `residuals` is set.
        """
        check_editable(graph)
        check_weights(graph.model)
        check_real(graph.model)
        scored = [g for g in prunable(graph) if groups is None or g.name in groups]
        if not scored:
            return []
        sample = list(batches)
        if self.residuals:
            loss = _residual(loss)
        prices, proposals, unread = CostModel(graph), list[Proposal](), list[str]()
        for part in groups_in_parts(graph, scored):
            found, rest = self._read(graph, loss, sample, part, prices)
            proposals += found
            unread += rest
        proposals += self._unread(graph, loss, sample, unread, prices)
        return best_first(proposals)

    def _read(
        self,
        graph: ChannelGraph,
        loss: Loss,
        sample: list[Any],
        groups: Sequence[ChannelGroup],
        prices: CostModel,
    ) -> tuple[list[Proposal], list[str]]:
        """Channels that others can replace, and the names of the groups that have none."""
        reads, samples = reads_of(graph, loss, sample, [group.name for group in groups])
        own = lambda read: weight_of(graph.model, read.reader).double()  # noqa: E731
        strengths = {
            read.reader.name: self.strength or strength_of(read, own(read)) for read in reads
        }
        proposals, unread = list[Proposal](), list[str]()
        multiplied = _multiplied(graph)
        for group in groups:
            blocks = [
                block_of(graph.model, read, group.name, samples, strengths[read.reader.name])
                for read in reads
                if group.name in read.groups
            ]
            if not blocks or group.atom in multiplied:
                unread.append(group.name)
                continue
            cost, highest = prices.added([Prune(group.name, 0)]), 0.0
            for channel, added in zip(*eliminate(blocks, 0), strict=True):
                # Not by max(), which would ignore nan.
                highest = added if not added <= highest else highest
                edit = Prune(group.name, channel)
                proposals.append(Proposal(edit, -highest, cost, score=-highest, graph=graph))
        return proposals, unread

    def _unread(
        self,
        graph: ChannelGraph,
        loss: Loss,
        sample: list[Any],
        names: list[str],
        prices: CostModel,
    ) -> list[Proposal]:
        """Channels that no weight reads alone: no others can replace them."""
        if not names:
            return []
        found: dict[str, list[Tensor]] = {}
        for batch in sample:
            for name, changes in first_order(graph, loss, batch).items():
                found.setdefault(name, []).append(changes.double())
        out = []
        for name in names:
            if name not in found:
                continue
            changes = torch.cat(found[name])
            [costs] = distributed.all_mean([0.5 * changes.square().mean(0)], len(changes))
            cost = prices.added([Prune(name, 0)])
            ranked = sorted(zip(costs.tolist(), range(len(costs)), strict=True))
            for value, channel in ranked:
                out.append(Proposal(Prune(name, channel), -value, cost, score=-value, graph=graph))
        return out


def _residual(loss: Loss) -> Loss:
    """The residual of each sample, with half of its square as the loss.

    Args:
        loss: `loss(model, batch)` -> (S,), not negative.

    Returns:
        `residual(model, batch)` -> (S,); it raises a RamifyError where a loss is negative.
    """

    def residual(model: nn.Module, batch: Any) -> Tensor:
        losses = shaped_loss(loss, model, batch)
        # In half precision, TINY would be 0.
        losses = losses.to(torch.promote_types(losses.dtype, torch.float32))
        known = losses.detach()
        least = float(known.min())
        if least < 0:
            raise RamifyError(
                f"a sample has a loss of {least:.4g}, and residuals=True takes losses that are not "
                "negative: leave it out"
            )
        return (2.0 * (losses + NEGLIGIBLE * known.mean() + TINY)).sqrt()

    return residual


def proposed(
    method: Method, graph: ChannelGraph, loss: Loss, sample: Sequence[Any], groups: Collection[str]
) -> list[Proposal]:
    """The proposals of a method for some groups; Takeover does not score the other groups.

    Args:
        method: the method.
        graph: the traced model.
        loss: `loss(model, batch)` -> (S,), one number a sample.
        sample: the batches.
        groups: the names of the groups.

    Returns:
        The proposals; methods other than Takeover may include other groups.
    """
    if type(method) is Takeover:
        return method.propose(graph, loss, sample, groups)
    return list(method.propose(graph, loss, sample))


def _multiplied(graph: ChannelGraph) -> set[Atom]:
    """The axes that a product of two activations sums over, as in q·kᵀ."""
    products = (read for read in graph.flow.contractions if not read.names)
    return {atom for read in products for atom in atoms_of(read.read)}
