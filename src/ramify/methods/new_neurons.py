"""New neurons that nothing reads yet: the edits that add them, and their gradients.

A new neuron is a later copy of a split of weights (1, 0), displaced to its own kernels. Its
outgoing weights are zero, so that the output is unchanged; the gradient with respect to them is the
rate at which the loss falls once they leave zero.

Shape letters: `W` channels of a group, `N` new neurons of a group, `K` positions of one channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.edit import Plan, Split
from ramify.errors import RamifyError, derivatives
from ramify.methods.draws import Kernels, second_copy
from ramify.methods.trial import differentiable, edited
from ramify.probe.loss import Loss, check_follows, checked_loss, each_batch
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.indexing import Change, positions, scales_along
from ramify.tracing.recorder import tensors_of


def additions(
    groups: Sequence[ChannelGroup], held: Sequence[Kernels], fresh: Sequence[Kernels]
) -> list[list[Split]]:
    """For each group, the split of every channel into itself and its new neuron.

    Args:
        groups: the groups that get the neurons.
        held: the current kernels of each group.
        fresh: the new neurons' kernels.

    Returns:
        One list per group.
    """
    out = []
    for group, old, new in zip(groups, held, fresh, strict=True):
        offsets = {name: second_copy((new[name] - old[name])[:, None]) for name in old}
        out.append(
            [
                Split(group.name, c, (1.0, 0.0), {n: offset[c] for n, offset in offsets.items()})
                for c in range(group.width)
            ]
        )
    return out


@dataclass(frozen=True)
class Column:
    """The positions at which one consumer reads the new neurons of a group.

    Attributes:
        name: the consumer.
        dim: the consumer's dimension that is summed over.
        where: (N, K), the positions of the new neurons.
        alone: (N, K), 1 where no other group has a new neuron.
    """

    name: str
    dim: int
    where: Tensor
    alone: Tensor

    def part(self, tensor: Tensor) -> Tensor:
        """(N, *rest): the entries of a tensor of the consumer's shape for each new neuron."""
        rows = tensor.movedim(self.dim, 0)[self.where.to(tensor.device)]
        return rows.reshape(len(self.where), -1)


def columns_of(
    graph: ChannelGraph, groups: Sequence[ChannelGroup], plan: Plan
) -> list[list[Column]]:
    """The positions at which the consumers of each group read its new neurons.

    Args:
        graph: before the edits.
        groups: the groups that get the neurons.
        plan: the plan of the edits; all copies but the first of each split are new.

    Returns:
        One list per group, with an entry for each consumer.
    """
    out = []
    for group in groups:
        change = plan.changes[group.atom]
        new = [n for other, _, copies in plan.splits if other is group for n in copies[1:]]
        same = Change(change.source, np.ones(len(change.source)))
        own = []
        for slot in group.slots:
            if slot.role == "consumer":
                term = graph.dims[slot.name][slot.dim]
                where = positions(term, group.atom, plan.changes)[new]
                changes = plan.changes | {group.atom: same}
                alone = scales_along(term, changes, frozenset(plan.changes))[where]
                places, free = torch.from_numpy(where), torch.from_numpy(alone)
                own.append(Column(slot.name, slot.dim, places, free))
        out.append(own)
    return out


def masks_of(
    columns: Sequence[Sequence[Column]], readers: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """For each consumer, 1 at the columns that belong to new neurons of one group only."""
    masks = {name: torch.zeros_like(reader) for name, reader in readers.items()}
    for column in (column for own in columns for column in own):
        rows = masks[column.name].movedim(column.dim, 0)
        values = column.alone.reshape(-1, *[1] * (rows.dim() - 1)).to(rows)
        where = column.where.reshape(-1).to(rows.device)
        rows[where] = values.expand(-1, *rows.shape[1:])
    return masks


def reader_gradients(
    model: nn.Module, readers: Sequence[Tensor], loss: Loss, batches: Iterable[Any]
) -> list[Tensor]:
    """The gradient of the mean loss over all batches of all ranks.

    Args:
        model: the network.
        readers: the parameters, which require gradients.
        loss: `loss(model, batch)` -> (S,).
        batches: the sample.

    Returns:
        One gradient per parameter.

    Raises:
        RamifyError: there is no batch.
    """
    sums, samples = [torch.zeros_like(reader) for reader in readers], 0
    for batch in each_batch(batches):
        values = checked_loss(loss, model, batch)
        check_follows(values)
        samples += len(values)
        with derivatives():
            found = torch.autograd.grad(values.sum(), readers, allow_unused=True)
        sums = [a if b is None else a + b for a, b in zip(sums, found, strict=True)]
    if not samples:
        raise RamifyError(NO_BATCH)
    return distributed.all_mean([total / samples for total in sums], samples)


def squares_of(
    columns: Sequence[Sequence[Column]], gradients: Mapping[str, Tensor]
) -> list[Tensor]:
    """The squared norm of the gradient with respect to the outgoing weights of each new neuron.

    Args:
        columns: the positions of these weights, for each group.
        gradients: consumer -> gradient, zero at other weights.

    Returns:
        (N,) for each group with a consumer; one zero for a group without.
    """
    zero = torch.zeros((), dtype=next(iter(gradients.values())).dtype)
    return [
        sum((c.part(gradients[c.name]).square().sum(1) for c in own), start=zero) for own in columns
    ]


def outgoing_squares(
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    edits: Sequence[Sequence[Split]],
    loss: Loss,
    batches: Iterable[Any],
) -> list[Tensor]:
    """The decrease of the mean loss per unit of a gradient step of the outgoing weights.

    That is the squared norm of the gradient with respect to the outgoing weights of each new
    neuron. All groups may have new neurons at once: without outgoing weights they do not affect
    each other.

    Args:
        graph: the traced model.
        groups: the groups that get the neurons; each has a consumer.
        edits: for each group, splits whose copies except the first are new neurons.
        loss: `loss(model, batch)` -> (S,).
        batches: the sample; it is iterated once.

    Returns:
        (N,) for each group, in the order of the copies.

    Raises:
        RamifyError: there is no batch.
    """
    every = [edit for own in edits for edit in own]
    with edited(graph, every) as plan:
        columns, tensors = columns_of(graph, groups, plan), tensors_of(graph.model)
        readers = {column.name: tensors[column.name] for own in columns for column in own}
        with differentiable(readers.values()):
            found = reader_gradients(graph.model, list(readers.values()), loss, batches)
        masks = masks_of(columns, readers)
        gradients = {
            name: gradient * masks[name] for name, gradient in zip(readers, found, strict=True)
        }
        return squares_of(columns, gradients)


NO_BATCH = (
    "there is no batch to find new neurons on: give a list or a loader, which can be gone through "
    "again and again"
)
