"""The expected result of edits, from the generator's own index maps.

Prunes are compared with a network built at the smaller width and, if nothing depends on the number
of channels, with the old network whose readers see zeros. Splits are compared with a network built
at the larger width, whose readers are multiplied by the shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product

import torch
from torch import Tensor

import ramify
from benchmarks.fuzz_edits.axes import (
    Axis,
    Dim,
    Edits,
    Entry,
    Member,
    Members,
    Move,
    axes_of,
    entries,
    label,
    shares,
    sources,
)
from benchmarks.fuzz_edits.program import Net, Program

READINGS = 48
Tensors = Mapping[str, Tensor]
AllDims = Mapping[str, tuple[Dim, ...]]
Law = Callable[[Tensor, Tensor], Tensor]
Edit = ramify.Prune | ramify.Split


def tensors_of(net: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once."""
    return dict(net.named_parameters()) | dict(net.named_buffers())


def axes_meant(dims: AllDims, group: ramify.ChannelGroup) -> list[frozenset[Axis]]:
    """The axes that a group may mean: axes of its width among the rows of its producers.

    Args:
        dims: the dimensions of the network.
        group: the group in Ramify's graph.

    Returns:
        Every choice of one axis per producer, those with the fewest axes first.
    """
    each = []
    for name in group.producers:
        rows = (axis for dim in dims[name] if not dim.reads for axis in axes_of(dim.term))
        each.append(list(dict.fromkeys(axis for axis in rows if axis.width == group.width)))
    alone = (frozenset({axis}) for axis in each[0] if all(axis in own for own in each))
    several = (frozenset(choice) for choice in islice(product(*each), READINGS))
    return sorted(dict.fromkeys([*alone, *several]), key=len)


def readings(dims: AllDims, graph: ramify.ChannelGraph, edits: Sequence[Edit]) -> Iterator[Edits]:
    """The possible interpretations of edits in terms of the generator's axes."""
    groups = {edit.group: graph[edit.group] for edit in edits}
    choices = [axes_meant(dims, group) for group in groups.values()]
    # Two groups share no axis, and interpretations with the fewest axes are tried first.
    apart = (
        chosen
        for chosen in islice(product(*choices), READINGS**2)
        if sum(map(len, chosen)) == len(frozenset[Axis]().union(*chosen))
    )
    for chosen in islice(sorted(apart, key=lambda one: sum(map(len, one))), READINGS):
        meant = dict(zip(groups, chosen, strict=True))
        found = Edits()
        for edit in edits:
            for axis in meant[edit.group]:
                assert isinstance(edit.channel, int)
                if isinstance(edit, ramify.Prune):
                    found.gone.setdefault(axis, set()).add(edit.channel)
                    continue
                found.copies.setdefault(axis, {})[edit.channel] = edit.weights
                found.moves += [
                    Move(name, axis, edit.channel, offset)
                    for name, offset in edit.offsets.items()
                    if place_of(dims[name], axis) is not None
                ]
        if all(len(gone) < axis.width for axis, gone in found.gone.items()):
            yield found


def carried(tensor: Tensor, dims: Sequence[Dim], members: Members, law: Law | None) -> Tensor:
    """A tensor of the edited network, from that of the old one.

    Args:
        tensor: a tensor of the old network.
        dims: its dimensions.
        members: the channels of the new network.
        law: (factors of gradients, factors of values) -> the factors of the entries; None to copy
            them.

    Returns:
        The tensor of the new network.
    """
    for place, dim in enumerate(dims):
        tensor = tensor.index_select(
            place, torch.tensor(sources(dim.term, members), dtype=torch.long)
        )
        factor = torch.tensor(shares(dim.term, members), dtype=tensor.dtype)
        if law is not None and bool((factor != 1).any()):
            ones = torch.ones_like(factor)
            scale = law(ones, factor) if dim.reads else law(factor, ones)
            tensor = tensor * scale.view([-1 if at == place else 1 for at in range(tensor.dim())])
    return tensor


def values_of(gradients: Tensor, values: Tensor) -> Tensor:
    """The rule for weights."""
    return values


def place_of(dims: Sequence[Dim], axis: Axis) -> int | None:
    """The dimension of a tensor that produces the channels of an axis."""
    own = (n for n, dim in enumerate(dims) if not dim.reads and axis in set(axes_of(dim.term)))
    return next(own, None)


def holds(entry: Entry, axis: Axis, channel: int) -> Member | None:
    """The member of an axis that an entry belongs to, if it is this channel."""
    return next((m for a, m in entry if a is axis and m.channel == channel), None)


def displacement(
    offset: Tensor, dims: Sequence[Dim], members: Members, axis: Axis, channel: int
) -> Tensor:
    """The displacement that the offsets of one split add to a tensor of the new network."""
    place = place_of(dims, axis)
    assert place is not None
    shape = [len(sources(dim.term, members)) for dim in dims]
    found = torch.zeros(shape, dtype=offset.dtype).movedim(place, 0)
    rest = [dim for n, dim in enumerate(dims) if n != place]
    term = dims[place].term
    own = [label(entry) for entry in entries(term, {}) if holds(entry, axis, channel)]
    for row, entry in enumerate(entries(term, members)):
        if (copy := holds(entry, axis, channel)) is None:
            continue
        kernels = offset[copy.copy] if len(own) > 1 else offset[copy.copy][None]
        found[row] = carried(kernels[own.index(label(entry))], rest, members, values_of)
    return found.movedim(0, place)


def kernel_shape(dims: Sequence[Dim], axis: Axis, channel: int) -> tuple[int, ...]:
    """The shape of the entries of a tensor that produce one channel."""
    place = place_of(dims, axis)
    assert place is not None
    found = entries(dims[place].term, {})
    count = sum(holds(entry, axis, channel) is not None for entry in found)
    rest = tuple(len(entries(dim.term, {})) for n, dim in enumerate(dims) if n != place)
    return rest if count == 1 else (count, *rest)


def is_lawful(dims: Sequence[Dim], edits: Edits) -> bool:
    """Whether the new entries of a tensor follow only from its dimensions.

    They do not for queries and keys, which divide the scale of a copy between them and compensate
    for a scale of products that depends on the width.

    Args:
        dims: the dimensions of the tensor.
        edits: the edits.

    Returns:
        The answer.
    """
    axes = {axis for dim in dims for axis in axes_of(dim.term)}
    return not any(
        (axis.paired and edits.copies.get(axis)) or (axis.scaled and edits.gone.get(axis))
        for axis in axes
    )


def built(p: Program, dims: AllDims, old: Tensors, edits: Edits, dtype: torch.dtype) -> Net:
    """The network built at the widths after edits, with the values of the old one.

    If the scale of products depends on the width, pruned channels are kept as zeros, since an edit
    does not change the scale.

    Args:
        p: the program of the network.
        dims: the dimensions of its tensors.
        old: its values.
        edits: the edits.
        dtype: the type of its parameters.

    Returns:
        A network in eval mode.
    """
    scaled = {axis: gone for axis, gone in edits.gone.items() if axis.scaled}
    others = {axis: gone for axis, gone in edits.gone.items() if not axis.scaled}
    members = Edits(others, edits.copies).members()
    new = {name: carried(old[name], own, members, values_of) for name, own in dims.items()}
    for move in edits.moves:
        own = dims[move.name]
        new[move.name] += displacement(move.offset, own, members, move.axis, move.channel)
    new = masked(dims, new, scaled, reads=False, members=members)
    net = p.build(members).to(dtype).eval()
    load(net, new)
    return net


def load(net: Net, tensors: Tensors) -> None:
    """Load these values into a network with the same names and shapes."""
    own = tensors_of(net)
    with torch.no_grad():
        for name, tensor in tensors.items():
            assert own[name].shape == tensor.shape, (name, own[name].shape, tensor.shape)
            own[name].copy_(tensor)


def masked(
    dims: AllDims,
    old: Tensors,
    gone: Mapping[Axis, set[int]],
    reads: bool,
    members: Members | None = None,
) -> dict[str, Tensor]:
    """Values with zeros where channels are read, or where they are produced.

    Args:
        dims: the dimensions of the tensors.
        old: the values.
        gone: the channels.
        reads: whether to zero the readers rather than the producers.
        members: the channels of the tensors; all by default.

    Returns:
        Copies of the tensors.
    """
    found = {}
    for name, tensor in old.items():
        found[name] = tensor.clone()
        for place, dim in enumerate(dims.get(name, ())):
            if dim.reads == reads:
                for at, entry in enumerate(entries(dim.term, members or {})):
                    if any(isinstance(a, Axis) and m.channel in gone.get(a, ()) for a, m in entry):
                        found[name].select(place, at).zero_()
    return found


def can_mask(edits: Edits) -> bool:
    """Whether pruning channels equals reading them as zero."""
    return not any(axis.mixed or axis.paired for axis in edits.gone)


def distance(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference of outputs, relative to the largest entry."""
    largest = max((float(t.abs().max()) for t in one if t.numel()), default=0.0)
    apart = 0.0
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape:
            return math.inf
        apart = max(apart, float((a - b).abs().max()) if a.numel() else 0.0)
    return math.nan if math.isnan(largest) else apart / max(largest, 1.0)
