"""Which groups can be probed, the positions of their kernels, and which can be probed together.

Shape letters: `W` channels of a group, `D` parameters of one channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.attention.factors import scalable_products
from ramify.tracing.dims import atoms_of
from ramify.tracing.indexing import Index


@dataclass(frozen=True)
class ProducerWeight:
    """One producer of a group.

    Attributes:
        name: the parameter.
        dim: its dimension of the channels.
        positions: (W, K), the positions of each channel along that dimension.
    """

    name: str
    dim: int
    positions: Index


@dataclass(frozen=True)
class Target:
    """A group that can be probed.

    Attributes:
        group: the group.
        kernels: the kernels of its producers, in order.
        multiplied: whether a product of activations sums over the channels, as q·kᵀ does over a
            head's.
    """

    group: ChannelGroup
    kernels: tuple[ProducerWeight, ...]
    multiplied: bool = False


def targets(graph: ChannelGraph) -> list[Target]:
    """Every group whose channelwise path the probe can follow from producers to consumers.

    A grouped convolution on the path (with whole groups as channels) sums over other channels and
    is not followed; nor is a group made by a layer that carries another group.

    Args:
        graph: the traced model.

    Returns:
        The targets, in forward order.
    """
    summing = {n for read in graph.flow.contractions if atoms_of(read.read) for n in read.names}
    able = [
        group
        for group in graph.groups
        if group.can_split and not summing.intersection(group.carriers)
    ]
    multiplied = scalable_products(graph.flow)
    carried = {name for group in able for name in group.carriers}
    found = []
    for group in able:
        if carried.intersection(group.producers):
            continue
        slots = [slot for slot in group.slots if slot.role == "producer"]
        kernels = tuple(ProducerWeight(s.name, s.dim, graph.positions(group, s)) for s in slots)
        found.append(Target(group, kernels, group.atom in multiplied))
    return found


def why_no_target(group: ChannelGroup) -> str:
    """Why the probe cannot follow a group that is none of the `targets`."""
    if not group.can_split:
        return group.reason
    return "its channels pass a grouped convolution, which sums over others"


def independent_sets(graph: ChannelGraph, found: Sequence[Target]) -> list[list[int]]:
    """Sets of targets, by number, each of which can be probed at once.

    Two groups over the same rows or columns (the heads, and the channels inside a head), or made by
    two dimensions of one weight, are in different sets; so are groups whose channels a product of
    activations sums over, and groups whose path crosses it.

    Args:
        graph: the traced model.
        found: its targets.

    Returns:
        Sets from a greedy pass over the targets in order.
    """
    # For each set: whether a product sums over its channels, the rows and columns in use, the
    # dimension along which each weight is displaced, and the members.
    sets: list[tuple[bool, set[tuple[str, int, int]], dict[str, int], list[int]]] = []
    for number, target in enumerate(found):
        own = {
            (slot.name, slot.dim, int(position))
            for slot in target.group.slots
            for position in graph.positions(target.group, slot).flat
        }
        made = {kernel.name: kernel.dim for kernel in target.kernels}
        for multiplied, taken, dims, members in sets:
            crossed = any(dims.get(name, dim) != dim for name, dim in made.items())
            if multiplied is target.multiplied and taken.isdisjoint(own) and not crossed:
                taken |= own
                dims |= made
                members.append(number)
                break
        else:
            sets.append((target.multiplied, own, made, [number]))
    return [members for *_, members in sets]


def vector_shapes(found: Sequence[Target], tensors: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """The shape of the vectors of each target.

    Args:
        found: the targets.
        tensors: parameters by name.

    Returns:
        (W, D) of each target.
    """
    return [
        (
            target.group.width,
            sum(
                tensors[k.name].numel() // tensors[k.name].shape[k.dim] * k.positions.shape[1]
                for k in target.kernels
            ),
        )
        for target in found
    ]
