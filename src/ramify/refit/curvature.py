"""The readers of every group, with the moments of what they read and of the loss' gradients.

Shape letters: `S` samples, `G` groups of a convolution, `F` features, `O` outputs, `C` channels,
`K` features of one channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramify import distributed
from ramify.errors import RamifyError
from ramify.probe.recorded_pass import Snapshot
from ramify.probe.splitting_matrix import Loss, checked_loss
from ramify.refit.moments import Moments, rows_of
from ramify.refit.readers import Course, Reader, course_of
from ramify.refit.surgery import Block
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.indexing import owners
from ramify.tracing.recorder import tensors_of


@dataclass
class Read:
    """One reader of prunable channels, and the sums over the sample.

    Attributes:
        reader: on the tape of the first batch.
        centred: whether it has a bias, or a norm behind it that takes one.
        groups: group name -> (G, C, K), the features of each channel.
        reads: sums of what it reads.
        gradients: (G, O, O), sum of the gradients' outer products.
    """

    reader: Reader
    centred: bool
    groups: dict[str, Tensor]
    reads: Moments
    gradients: Tensor


def reads_of(graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> tuple[list[Read], int]:
    """Every linear reader of channels that can be pruned, with its moments.

    Args:
        graph: the traced model.
        loss: `loss(model, batch)` -> (S,).
        batches: the sample.

    Returns:
        The readers in forward order, and the number of samples of all ranks.

    Raises:
        RamifyError: there is no batch, or the loss is not per sample.
    """
    found: list[Read] = []
    samples = 0
    for batch in batches:
        run = lambda batch=batch: checked_loss(loss, graph.model, batch)  # noqa: E731
        names = [name for name, _ in graph.model.named_parameters()]
        with torch.enable_grad():
            snapshot = Snapshot(graph.model, run, batch, names)
        course = course_of(snapshot.tape)
        if not found:
            found = _found(graph, course)
        by_name = {reader.name: reader for reader in course.readers}
        readers = [by_name[read.reader.name] for read in found]
        made = {reader.position: reader.result for reader in readers}
        slopes = snapshot.gradients(made, [reader.position for reader in course.readers])
        samples += len(snapshot.losses)
        for read, reader in zip(found, readers, strict=True):
            slope = slopes.get(reader.position)
            if slope is None:
                continue
            x = snapshot.value(reader.source, reader.position)
            for phi, own in rows_of(reader, x, slope):
                read.reads.add(phi, own)
                wide = own.to(torch.promote_types(own.dtype, torch.float32))
                read.gradients += wide @ wide.transpose(1, 2)
    if not samples:
        raise RamifyError("there is no batch to score on: give at least one")
    return _everywhere(found), int(distributed.all_sum([torch.tensor(float(samples))])[0])


def _everywhere(found: Sequence[Read]) -> list[Read]:
    parts = [[*read.reads.parts(), read.gradients] for read in found]
    flat = iter(distributed.all_sum([part for own in parts for part in own]))
    out = []
    for read in found:
        own = [next(flat) for _ in range(7)]
        out.append(Read(read.reader, read.centred, read.groups, Moments(*own[:6]), own[6]))
    return out


def _found(graph: ChannelGraph, course: Course) -> list[Read]:
    tensors, out = tensors_of(graph.model), []
    for reader in course.readers:
        groups = {}
        for group in graph.groups:
            where = _features(graph, group, reader) if group.can_prune else None
            if where is not None:
                groups[group.name] = where
        if groups:
            size, features, made = reader.entries.shape
            device = tensors[reader.name].device
            zeros = torch.zeros(size, made, made, dtype=torch.float64, device=device)
            centred = reader.bias is not None or reader.position in course.behind
            reads = Moments.zeros(size, features, made, device)
            out.append(Read(reader, centred, groups, reads, zeros))
    return out


def _features(graph: ChannelGraph, group: ChannelGroup, reader: Reader) -> Tensor | None:
    """(G, C, K), where a reader finds each channel of a group; None if it does not read it."""
    slots = [s for s in group.slots if s.name == reader.name and s.role == "consumer"]
    if not slots:
        return None
    [slot] = slots[:1]
    shape = graph.labels.names[slot.name]
    channel = torch.from_numpy(owners(graph.dims[slot.name][slot.dim], group.atom))
    place = torch.unravel_index(reader.entries[:, :, 0], shape)[slot.dim]
    owner = channel[place]  # (G, F)
    own = [(owner == c).sum(1) for c in range(group.width)]
    counts = torch.stack(own, 1)  # (G, C)
    size = int(counts.max())
    if not bool((counts == size).all()) or size == 0:
        return None
    order = torch.argsort(torch.where(owner < 0, group.width, owner), dim=1, stable=True)
    return order[:, : group.width * size].reshape(len(order), group.width, size)


def blocks_of(
    graph: ChannelGraph, reads: Sequence[Read], group: ChannelGroup, samples: int, strength: float
) -> list[Block]:
    """The blocks of one group's readers.

    Args:
        graph: the traced model.
        reads: of `reads_of`.
        group: whose channels may go.
        samples: S, of all ranks.
        strength: λ, in units of the mean diagonal.

    Returns:
        One block a reader.
    """
    tensors, out = tensors_of(graph.model), []
    for read in reads:
        where = read.groups.get(group.name)
        if where is None:
            continue
        a = read.reads.xx / read.reads.rows
        if read.centred:
            mean = read.reads.x / read.reads.rows
            a = a - mean[:, :, None] * mean[:, None, :]
        weight = tensors[read.reader.name].detach().double().reshape(-1)[read.reader.entries]
        out.append(Block.of(a, weight, read.gradients / samples, where.to(a.device), strength))
    return out
