"""The readers of each group, with the moments of their inputs and of the loss gradients.

Shape letters: `S` samples, `G` groups of a convolution, `F` features, `O` outputs, `C` channels,
`K` features of one channel.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.errors import RamifyError
from ramify.probe.loss import Loss, checked_loss
from ramify.probe.recorded_pass import RecordedPass
from ramify.refit import moments
from ramify.refit.moments import Moments, folded, over_ranks, roomy
from ramify.refit.readers import Course, Reader
from ramify.refit.ridge import MIXES, STRENGTHS, best_strength, covariances, mixes
from ramify.refit.surgery import ReaderState, curvature_of
from ramify.refit.symmetric import add_upper, mirror
from ramify.refit.tapes import Courses
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.indexing import owners
from ramify.tracing.recorder import Tape, tensors_of

FOLDS = 2
"""The number of parts of the sample, used to choose how far to trust the moments."""

AT_ONCE = 2**31
"""Bytes of moments kept at once; or the size of the model, if that is larger."""


@dataclass
class ReaderSums:
    """One reader of prunable channels, with its sums over the sample.

    Attributes:
        reader: the reader on the tape of the first batch.
        centred: whether it has a bias, or is followed by a norm that can absorb one.
        groups: group name -> (G, C, K), the features of each channel.
        folds: sums of its inputs, with the samples in parts.
        weight: (G, F, O), if it has more outputs than inputs: gradients are then propagated to the
            inputs sample by sample, since a vocabulary's (O, O) matrix does not fit into memory.
        gradients: (G, O, O), sum of the gradients' outer products; of W g, (G, F, F), with
            ``weight``.
    """

    reader: Reader
    centred: bool
    groups: dict[str, Tensor]
    folds: list[Moments]
    weight: Tensor | None
    gradients: Tensor


def groups_in_parts(
    graph: ChannelGraph, groups: Sequence[ChannelGroup]
) -> Iterator[list[ChannelGroup]]:
    """Groups in order, in parts whose moments fit into memory together with the model.

    Args:
        graph: the traced model.
        groups: some of its groups.

    Yields:
        Groups whose readers' moments take at most `AT_ONCE` or the memory of the model, whichever
        is more; a group that takes more is alone.
    """
    tensors = tensors_of(graph.model)
    room = max(AT_ONCE, sum(t.numel() * t.element_size() for t in tensors.values()))
    part: list[ChannelGroup] = []
    left = room
    for group in groups:
        needed = sum(_bytes(tensors[name], dim) for name, dim in _readers_of(group))
        if part and needed > left:
            yield part
            part, left = [], room
        part.append(group)
        left -= needed
    if part:
        yield part


def _readers_of(group: ChannelGroup) -> set[tuple[str, int]]:
    """The parameters that read a group's channels, and in which dimension."""
    return {(slot.name, slot.dim) for slot in group.slots if slot.role == "consumer"}


def _bytes(weight: Tensor, dim: int) -> int:
    """The approximate memory of one reader's sums: of its inputs and of its gradients."""
    made = weight.shape[0] if dim else weight.shape[-1]
    features = weight.numel() // max(made, 1)
    if features > moments.WIDEST:
        return 0
    return 8 * (FOLDS * features**2 + min(made, features) ** 2)


def reads_of(
    graph: ChannelGraph, loss: Loss, batches: Iterable[Any], names: Collection[str]
) -> tuple[list[ReaderSums], int]:
    """Every linear reader of some groups' channels, with its moments.

    Args:
        graph: the traced model.
        loss: `loss(model, batch)` -> (S,).
        batches: the sample.
        names: the names of the groups.

    Returns:
        The readers in forward order, and the number of samples over all ranks.

    Raises:
        RamifyError: there is no batch, or the loss is not per sample.
    """
    found: list[ReaderSums] = []
    courses, samples = Courses(), 0
    groups = [group for group in graph.groups if group.name in names]
    for number, batch in enumerate(batches):
        samples += _add(graph, groups, found, courses, loss, (number, batch))
    if not samples:
        raise RamifyError("there is no batch to score on: give at least one")
    return _everywhere(found), int(distributed.all_sum([torch.tensor(float(samples))])[0])


def _add(
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    found: list[ReaderSums],
    courses: Courses,
    loss: Loss,
    numbered: tuple[int, Any],
) -> int:
    """Add one batch to the sums of every reader; the readers are found on the first batch.

    Returns:
        The number of samples in the batch.
    """
    number, batch = numbered
    run = lambda: checked_loss(loss, graph.model, batch)  # noqa: E731
    names = [name for name, _ in graph.model.named_parameters()]
    with torch.enable_grad():
        taken = RecordedPass(graph.model, run, batch, names)
    course = courses.of(taken.tape)
    if not found:
        found += _found(graph, groups, course)
    by_name = {reader.name: reader for reader in course.readers}
    # Where the data decide which operations run (experts, say), a batch may lack some readers.
    met = [read for read in found if read.reader.name in by_name]
    readers = {by_name[read.reader.name].position: read for read in met}
    made = {p: by_name[read.reader.name].result for p, read in readers.items()}
    sources = {p: by_name[read.reader.name].source for p, read in readers.items()}
    # Values that no reader needs are freed at once, the others during the backward pass.
    taken.keep({ref.index for ref in sources.values()})

    def take(position: int, slope: Tensor) -> None:
        read = readers[position]
        reader, x = by_name[read.reader.name], taken.value(sources[position], position)
        for fold, phi, own in folded(reader, number, FOLDS, x, slope):
            read.folds[fold].add(phi, own[:, :0])
            [wide] = roomy(own)
            wide = wide if read.weight is None else read.weight.to(wide) @ wide
            add_upper(read.gradients, wide, wide)

    if made:
        starts = [_maker(taken.tape, by_name[read.reader.name]) for read in met]
        taken.gradients(made, starts, take)
    return len(taken.losses)


def _maker(tape: Tape, reader: Reader) -> int:
    """The operation that last wrote a reader's input: gradients are propagated up to it."""
    before = range(reader.position - 1, -1, -1)
    return next((p for p in before if reader.source in tape.ops[p].results()), reader.position)


def _everywhere(found: Sequence[ReaderSums]) -> list[ReaderSums]:
    """Sum over the samples of all ranks."""
    for read in found:
        mirror(read.gradients)
    gradients = distributed.all_sum([read.gradients for read in found])
    return [
        replace(read, folds=over_ranks(read.folds), gradients=own)
        for read, own in zip(found, gradients, strict=True)
    ]


def _found(graph: ChannelGraph, scored: Sequence[ChannelGroup], course: Course) -> list[ReaderSums]:
    tensors, out = tensors_of(graph.model), []
    for reader in course.readers:
        if reader.entries.shape[1] > moments.WIDEST:
            continue
        groups = {}
        for group in scored:
            where = _features(graph, group, reader)
            if where is not None:
                groups[group.name] = where
        if groups:
            size, features, made = reader.entries.shape
            device = tensors[reader.name].device
            weight = weight_of(graph.model, reader) if made > features else None
            side = min(made, features)
            zeros = torch.zeros(size, side, side, dtype=torch.float64, device=device)
            centred = reader.bias is not None or reader.position in course.behind
            folds = [Moments.zeros(size, features, 0, device) for _ in range(FOLDS)]
            out.append(ReaderSums(reader, centred, groups, folds, weight, zeros))
    return out


def weight_of(model: nn.Module, reader: Reader) -> Tensor:
    """The weight of a reader, (G, F, O)."""
    return tensors_of(model)[reader.name].detach().reshape(-1)[reader.entries]


def _features(graph: ChannelGraph, group: ChannelGroup, reader: Reader) -> Tensor | None:
    """(G, C, K), the reader's features for each channel of a group; None if it does not read it."""
    slots = [s for s in group.slots if s.name == reader.name and s.role == "consumer"]
    if not slots:
        return None
    [slot] = slots[:1]
    shape = graph.flow.param_shapes[slot.name]
    channel = torch.from_numpy(owners(graph.dims[slot.name][slot.dim], group.atom))
    place = torch.unravel_index(reader.entries[:, :, 0], shape)[slot.dim]
    owner = channel[place]  # (G, F)
    bins = torch.where(owner < 0, group.width, owner)
    counts = torch.stack([torch.bincount(row, minlength=group.width + 1) for row in bins])
    counts = counts[:, : group.width]  # (G, C)
    size = int(counts.max())
    if not bool((counts == size).all()) or size == 0:
        return None
    order = torch.argsort(bins, dim=1, stable=True)
    return order[:, : group.width * size].reshape(len(order), group.width, size)


def strength_of(read: ReaderSums, weight: Tensor) -> float:
    """The best λ for a reader that has lost every other channel, by cross-validation.

    Args:
        read: the reader with its sums.
        weight: (G, F, O), its weight.

    Returns:
        λ, in units of the mean diagonal.
    """
    half = slice(0, None, 2)
    if weight.shape[2] > MIXES:
        weight = weight @ mixes(weight)
    folds = []
    for fold in read.folds:
        made = fold.xx @ weight
        parts = (
            fold.rows,
            fold.x[:, half],
            torch.einsum("gf,gfo->go", fold.x, weight),
            fold.xx[:, half, half],
            made[:, half],
            (weight * made).sum(1),
        )
        folds.append(Moments(*parts))
    return best_strength(folds, weight[:, half], read.centred, STRENGTHS)


def block_of(
    model: nn.Module, read: ReaderSums, group: str, samples: int, strength: float
) -> ReaderState:
    """The state of one reader for one group.

    Args:
        model: the model.
        read: the reader with its sums.
        group: the group whose channels may be removed.
        samples: S, over all ranks.
        strength: λ, in units of the mean diagonal.

    Returns:
        The reader's state.
    """
    every = functools.reduce(operator.add, read.folds)
    a, _ = covariances(every, read.centred)
    where, gradients = read.groups[group].to(a.device), read.gradients / samples
    if read.weight is not None:
        return ReaderState.of(a, lambda dtype: gradients.to(dtype), where, strength)
    weight = weight_of(model, read.reader).double()
    return ReaderState.of(a, curvature_of(weight, gradients), where, strength)
