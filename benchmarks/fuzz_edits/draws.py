"""Random edits of a traced network, and impossible edits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

import ramify
from benchmarks.fuzz_edits.expected import AllDims, Edit, axes_meant, kernel_shape, place_of

SHARES: tuple[tuple[float, ...], ...] = (
    *((0.5, 0.5), (0.5, 0.5), (0.3, 0.7), (0.2, 0.3, 0.5)),
    *((1.3, -0.3), (1.0, 0.0), (0.25, 0.25, 0.25, 0.25)),
)
OF_BLOCKS, OF_CHANNELS, MOVED, BY_OTHER_NAME = 0.5, 0.5, 0.3, 0.3
EVEN, GIVEN = 0.5, 0.8


@dataclass
class Asked:
    """The edits of one call.

    Attributes:
        channels: edits of channels.
        blocks: edits of blocks.
        hurt: why the call must be refused, if so.
        extra: the edit that must be refused.
    """

    channels: list[Edit] = field(default_factory=list)
    blocks: list[ramify.Drop | ramify.Insert] = field(default_factory=list)
    hurt: str = ""
    extra: list[ramify.Edit | ramify.Drop | ramify.Insert] = field(default_factory=list)

    @property
    def edits(self) -> list[ramify.Edit | ramify.Drop | ramify.Insert]:
        """All edits."""
        return [*self.channels, *self.blocks, *self.extra]


def drawn_edits(
    draw: random.Random, graph: ramify.ChannelGraph, dims: AllDims, dtype: torch.dtype, hurt: float
) -> Asked:
    """Draw the edits of one call.

    Args:
        draw: the random generator.
        graph: the traced network.
        dims: the network's dimensions, as the generator knows them.
        dtype: the type of its parameters.
        hurt: the probability of adding an impossible edit.

    Returns:
        The edits; none if no group can be edited.
    """
    asked = Asked()
    able = [block for block in graph.blocks if block.can_drop or block.can_insert]
    if able and draw.random() < OF_BLOCKS:
        for block in draw.sample(able, min(len(able), draw.choice((1, 1, 2)))):
            drop = block.can_drop and (not block.can_insert or draw.random() < EVEN)
            asked.blocks.append(ramify.Drop(block.name) if drop else ramify.Insert(block.name))
    groups = [group for group in graph.groups if group.can_prune or group.can_split]
    if groups and (not asked.blocks or draw.random() < OF_CHANNELS):
        for group in draw.sample(groups, min(len(groups), draw.randint(1, 4))):
            found = _of_group(draw, graph, group, dims, dtype, not asked.blocks)
            # One channel may be added to any number, and its layers are as well in one group as
            # in groups of one: what its copies are is not for the generator to say.
            asked.channels += found if group.width > 1 else []
    if asked.edits and draw.random() < hurt:
        _add_hurt(draw, graph, asked)
    return asked


def _of_group(
    draw: random.Random,
    graph: ramify.ChannelGraph,
    group: ramify.ChannelGroup,
    dims: AllDims,
    dtype: torch.dtype,
    may_move: bool,
) -> list[Edit]:
    names = [group.name]
    if draw.random() < BY_OTHER_NAME:
        others = [*group.producers, *(name.rpartition(".")[0] for name in group.producers)]
        names = [name for name in others if name and graph[name] is group] or names
    name, left, found = draw.choice(names), group.width, list[Edit]()
    for channel in draw.sample(range(group.width), min(group.width, draw.randint(1, 3))):
        can_prune = group.can_prune and left > max(1, group.least)
        if can_prune and (not group.can_split or draw.random() < EVEN):
            left -= 1
            found.append(ramify.Prune(name, channel))
        elif group.can_split:
            weights = draw.choice(SHARES)
            moves = {}
            if may_move and draw.random() < MOVED:
                moves = _offsets(draw, group, dims, dtype, channel, len(weights))
            found.append(ramify.Split(name, channel, weights, moves))
    return found


def _offsets(
    draw: random.Random,
    group: ramify.ChannelGroup,
    dims: AllDims,
    dtype: torch.dtype,
    channel: int,
    copies: int,
) -> dict[str, torch.Tensor]:
    meant = axes_meant(dims, group)
    if not meant or any(axis.paired for axes in meant for axis in axes):
        return {}
    found = {}
    for name in group.producers:
        axes = [axis for axis in meant[0] if place_of(dims[name], axis) is not None]
        if len(axes) == 1 and draw.random() < GIVEN:
            shape = kernel_shape(dims[name], axes[0], channel)
            found[name] = 0.1 * torch.randn(copies, *shape, dtype=dtype)
    return found


def _add_hurt(draw: random.Random, graph: ramify.ChannelGraph, asked: Asked) -> None:
    """Add one impossible edit."""
    group = draw.choice(graph.groups)
    name, width = group.name, group.width
    frozen = [other for other in graph.groups if not other.can_prune]
    whole = [other for other in graph.groups if not other.can_split]
    ways: dict[str, Callable[[], Sequence[ramify.Edit | ramify.Drop | ramify.Insert]]] = {
        "a channel too many": lambda: [ramify.Prune(name, width)],
        "a channel below none": lambda: [ramify.Split(name, -1)],
        "a channel that is a truth": lambda: [ramify.Prune(name, True)],
        "no group": lambda: [ramify.Prune("nothing.here", 0)],
        "shares of more than one": lambda: [ramify.Split(name, 0, (0.5, 0.6))],
        "no shares": lambda: [ramify.Split(name, 0, ())],
        "all channels": lambda: [ramify.Prune(name, channel) for channel in range(width)],
        "one channel twice": lambda: [ramify.Prune(name, 0), ramify.Split(name, 0)],
        "offsets of nothing": lambda: [ramify.Split(name, 0, offsets={"none": torch.zeros(2)})],
        "offsets of another shape": lambda: [
            ramify.Split(name, 0, offsets={group.producers[0]: torch.zeros(2, 99)})
        ],
        "no block": lambda: [ramify.Drop("nothing.here")],
    }
    if frozen:
        ways["a frozen group"] = lambda: [ramify.Prune(draw.choice(frozen).name, 0)]
    if whole:
        ways["a group that no copy goes with"] = lambda: [ramify.Split(draw.choice(whole).name, 0)]
    asked.hurt = draw.choice(sorted(ways))
    asked.extra = list(ways[asked.hurt]())
