"""The plan: the change of every axis, computed before anything is edited."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ramify.arguments import form_of, is_whole
from ramify.errors import RamifyError
from ramify.tracing import ChannelGraph, ChannelGroup, check_ungated, check_whole, check_writable
from ramify.tracing.dims import Atom, leaves
from ramify.tracing.groups import check_graph
from ramify.tracing.indexing import Change, Slot, blocks_of
from ramify.tracing.recorder import tensors_of

Channel: TypeAlias = int | tuple[int, ...]
"""The index of a channel of a group, or one index for each head."""


@dataclass(frozen=True)
class Prune:
    """Remove one channel.

    Args:
        group: any name that `graph[...]` takes.
        channel: its index in the group, before any edit of the same call. If every head of an
            attention layer has the group's channels, this may be a tuple with one index per head,
            so that each head loses a different channel.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(3, 4))
        >>> graph = ramify.apply(graph, [ramify.Prune("0", 5), ramify.Prune("0", 6)])
        >>> net[0].out_features, net[2].in_features, graph.origin["0"]
        (6, 6, [0, 1, 2, 3, 4, 7])
    """

    group: str
    channel: Channel


@dataclass(frozen=True)
class Split:
    """Replace one channel by copies, whose outgoing weights are shares of the old ones.

    The first copy stays at the channel's index; the others are appended at the end.

    Args:
        group: any name that `graph[...]` takes.
        channel: its index in the group, before any edit of the same call.
        weights: the factor of each copy's outgoing weights; they sum to 1.
        offsets: the displacements of the copies' incoming weights: producer name -> tensor of shape
            (copies, *shape of one channel's kernel). A producer without an entry is not displaced.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(3, 4)
        >>> before, kernel = net(x), net[0].weight[2]
        >>> graph = ramify.apply(ramify.trace(net, x), [ramify.Split("0", 2)])
        >>> torch.allclose(net(x), before, atol=1e-6), graph.origin["0"][-1]  # a copy of channel 2
        (True, 2)
        >>> apart = 0.01 * torch.stack([kernel, -kernel])  # of the weights that make the copies
        >>> edit = ramify.Split("0", 3, (0.6, 0.4), offsets={"0.weight": apart})
        >>> ramify.apply(graph, [edit])["0"].width
        10
    """

    group: str
    channel: int
    weights: tuple[float, ...] = (0.5, 0.5)
    offsets: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def adds_neurons(self) -> bool:
        """Whether the copies are new neurons: without outgoing weights, beside the old channel."""
        read = [copy for copy, share in enumerate(self.weights) if share]
        alone = len(self.weights) > len(read) == 1
        return alone and not any(bool(offset[read[0]].any()) for offset in self.offsets.values())

    def __repr__(self) -> str:
        """The split in one line, with the shapes of its offsets instead of their values."""
        shapes = {
            name: tuple(getattr(offset, "shape", ())) for name, offset in self.offsets.items()
        }
        moved = f", offsets of {shapes}" if shapes else ""
        return f"Split({self.group!r}, {self.channel}, weights={self.weights}{moved})"

    def __post_init__(self) -> None:
        """Refuse weights that are not numbers, and offsets that are not a mapping."""
        try:
            shares = tuple(float(share) for share in self.weights)
        except (TypeError, ValueError) as error:
            raise RamifyError(
                f"the weights of a split of '{self.group}' must be the shares of its copies, one "
                f"real number for each, but got {self.weights!r}: give a tuple such as (0.5, 0.5)"
            ) from error
        object.__setattr__(self, "weights", shares)
        if not isinstance(self.offsets, Mapping):
            raise RamifyError(
                f"the offsets of a split of '{self.group}' are a {type(self.offsets).__name__}, "
                "where a dictionary is expected: give {name of the producer: tensor}, or leave "
                "them out for copies without displacement."
            )


Edit: TypeAlias = Prune | Split
"""An edit of channels: what `ramify.apply` takes and a method's proposal holds."""
Taken: TypeAlias = dict[Channel, Edit]
"""The edit of each edited channel."""


@dataclass(frozen=True)
class Plan:
    """The change of each axis, and the new channels of the copies of each split."""

    changes: dict[Atom, Change]
    splits: list[tuple[ChannelGroup, Split, list[int]]]
    """(group, edit, new channel of each copy)"""


def plan_edits(graph: ChannelGraph, edits: Iterable[Edit]) -> Plan:
    """Check the edits against the graph and compute the change of every axis.

    Args:
        graph: the traced model.
        edits: the edits of channels.

    Returns:
        The plan; nothing has changed yet.

    Raises:
        RamifyError: an edit is impossible; the message gives the reason.
    """
    # Check each edit, and collect the edited channels of each axis.
    by_group: dict[Atom, tuple[ChannelGroup, Taken]] = {}
    for edit in edits:
        if not isinstance(edit, (Prune, Split)):
            raise RamifyError(
                f"an edit must be a Prune, Split, Drop or Insert, but got a {type(edit).__name__}"
            )
        group = graph[edit.group]
        _validate(graph, group, edit)
        _, taken = by_group.setdefault(group.atom, (group, {}))
        if edit.channel in taken:
            raise RamifyError(
                f"channel {edit.channel} of '{group.name}' is edited twice in one call: give one "
                "Split with more copies, or apply one edit after the other"
            )
        taken[edit.channel] = edit
    # Then compute one change for each axis.
    plan = Plan({}, [])
    for group, taken in by_group.values():
        blocks = [channel for channel in taken if isinstance(channel, tuple)]
        if blocks:
            plan.changes[group.atom] = _change_blocks(graph, group, taken)
        else:
            plan.changes[group.atom] = _change(group, taken, plan)
    return plan


def _change_blocks(graph: ChannelGraph, group: ChannelGroup, taken: Taken) -> Change:
    """The change of an axis of which every head loses equally many, but different, channels."""
    blocks = blocks_around(graph, group)
    assert blocks is not None
    # The channels that each head loses; all lose equally many, as the group is one axis.
    gone: list[set[int]] = [set() for _ in range(blocks.size)]
    for channel, edit in taken.items():
        if isinstance(edit, Split):
            raise RamifyError(
                f"channels of '{group.name}' are pruned head by head and split in one call: apply "
                "one after the other"
            )
        each = channel if isinstance(channel, tuple) else (channel,) * blocks.size
        for own, one in zip(gone, each, strict=True):
            if one in own:
                raise RamifyError(
                    f"channel {one} of one head of '{group.name}' is pruned twice in one call"
                )
            own.add(one)
    kept = [[c for c in range(group.width) if c not in own] for own in gone]
    _check_left(group, kept[0])
    table = np.array(kept, dtype=np.int64)
    return Change(table[0], np.ones(table.shape[1]), blocks, table)


def blocks_around(graph: ChannelGraph, group: ChannelGroup) -> Atom | None:
    """The axis (the heads) each entry of which has all of a group's channels, in every slot."""
    terms = [graph.dims[slot.name][slot.dim] for slot in group.slots]
    around = set.intersection(*(blocks_of(term, group.atom) for term in terms))
    return min(around, key=lambda atom: atom.size) if around else None


def _check_left(group: ChannelGroup, source: Sequence[int]) -> None:
    if group.least > 1 and len(source) < group.least:
        raise RamifyError(
            f"these edits would leave {len(source)} of the {group.width} channels of "
            f"'{group.name}', and the forward takes the {group.least} largest of them: keep at "
            f"least {group.least}"
        )
    if not source:
        raise RamifyError(
            f"these edits would leave '{group.name}' without a channel: keep at least one of its "
            f"{group.width}"
        )


def _change(group: ChannelGroup, taken: Taken, plan: Plan) -> Change:
    """The change of one axis; the new channels of the copies are added to the plan."""
    # Kept channels keep their order; the first copy stays in place, the others are appended.
    gone = {channel for channel, edit in taken.items() if isinstance(edit, Prune)}
    source = [channel for channel in range(group.width) if channel not in gone]
    _check_left(group, source)
    scale = [1.0] * len(source)
    for edit in taken.values():
        if isinstance(edit, Split):
            new = [source.index(edit.channel)]
            scale[new[0]] = edit.weights[0]
            for weight in edit.weights[1:]:
                new.append(len(source))
                source.append(edit.channel)
                scale.append(weight)
            plan.splits.append((group, edit, new))
    return Change(np.array(source, dtype=np.int64), np.array(scale))


def _validate(graph: ChannelGraph, group: ChannelGroup, edit: Edit) -> None:
    """Check that the group allows the edit and that the channel exists."""
    if group.atom.frozen:
        what = "pruned" if isinstance(edit, Prune) else "split"
        raise RamifyError(f"'{group.name}' cannot be {what}: {group.reason}")
    channels = edit.channel if isinstance(edit.channel, tuple) else (edit.channel,)
    for channel in channels:
        if not is_whole(channel):
            raise RamifyError(
                f"a channel of '{group.name}' is an int, or a tuple with one for each head, and "
                f"the edit names {edit.channel!r} of type {type(edit.channel).__name__}: give "
                "int(...) or tuple(...)"
            )
        if not 0 <= channel < group.width:
            raise RamifyError(
                f"'{group.name}' has channels 0 to {group.width - 1}, and the edit names "
                f"{edit.channel}"
            )
    if isinstance(edit.channel, tuple):
        blocks = blocks_around(graph, group)
        if blocks is None or len(channels) != blocks.size or isinstance(edit, Split):
            there = "no heads" if blocks is None else f"{blocks.size} heads"
            raise RamifyError(
                f"a Prune of '{group.name}' takes one channel, or one for each head where every "
                f"tensor holds each head's apart; it has {there}, and the edit names {edit.channel}"
            )
    if isinstance(edit, Prune):
        return
    if not group.can_split:
        raise RamifyError(f"'{group.name}' cannot be split: {group.reason}")
    if not edit.weights or not math.isclose(sum(edit.weights), 1.0, abs_tol=1e-6):
        raise RamifyError(
            f"the weights of a split sum to 1, so that the output stays, and these sum to "
            f"{sum(edit.weights):g}: {tuple(edit.weights)}"
        )
    _validate_offsets(graph, group, edit)


def _validate_offsets(graph: ChannelGraph, group: ChannelGroup, edit: Split) -> None:
    """Check that every offset belongs to a producer and has the shape of the copies' kernels."""
    for name, offset in edit.offsets.items():
        slot = next((s for s in group.slots if s.name == name and s.role == "producer"), None)
        if slot is None:
            raise RamifyError(
                f"offsets displace what makes the channel, and '{name}' does not make channels "
                f"of '{group.name}': give {', '.join(group.producers)}"
            )
        expected = (len(edit.weights), *kernel_shape(graph, group, slot))
        if not isinstance(offset, Tensor) or tuple(offset.shape) != expected:
            raise RamifyError(
                f"the offset of '{name}' must be a tensor of shape {expected}, (copies, *shape of "
                f"one channel's kernel), but got {form_of(offset)}"
            )
        own = tensors_of(graph.model)[name].dtype
        if offset.is_complex() and not own.is_complex:
            raise RamifyError(
                f"the offset of '{name}' is complex, and the weight that it displaces is real: "
                "give its real part"
            )
        if not bool(torch.isfinite(offset.to(own)).all()):
            raise RamifyError(
                f"the offset of '{name}' holds values that are not finite, or not as the {own} of "
                "the weight"
            )


def kernel_shape(graph: ChannelGraph, group: ChannelGroup, slot: Slot) -> tuple[int, ...]:
    """The shape of one channel's part of a tensor of the group."""
    tensor = tensors_of(graph.model)[slot.name]
    count = graph.positions(group, slot).shape[1]
    rest = tuple(n for dim, n in enumerate(tensor.shape) if dim != slot.dim)
    return rest if count == 1 else (count, *rest)


def check_editable(graph: ChannelGraph) -> None:
    """Check that the graph describes the current model and has a group that can be edited.

    Raises:
        RamifyError: it does not, or every group is frozen.
    """
    check_current(graph)
    if any(group.can_prune or group.can_split for group in graph.groups):
        return
    name = type(graph.model).__name__
    if not graph.groups:
        raise RamifyError(f"no group of {name} can be edited: print(graph) says why there is none")
    first = graph.groups[0]
    more = f" (and {len(graph.groups) - 1} more)" if len(graph.groups) > 1 else ""
    raise RamifyError(
        f"no group of {name} can be edited: '{first.name}', as {first.reason}{more}; print(graph) "
        "lists every reason"
    )


def _is_edited(graph: ChannelGraph, name: str) -> bool:
    """Whether some dimension of a tensor holds channels that can be edited."""
    atoms = {group.atom for group in graph.groups if group.can_prune or group.can_split}
    return any(atom in atoms for term in graph.dims[name] for atom in leaves(term))


def check_current(graph: ChannelGraph) -> None:
    """Check that the graph describes the current model, and that inference mode is off.

    Raises:
        RamifyError: this is no graph; the model was edited, gated or reshaped since it was traced;
            or inference mode is on.
    """
    check_graph(graph)
    if torch.is_inference_mode_enabled():
        raise RamifyError(
            "under torch.inference_mode nothing has gradients, and new weights could never be "
            "trained: call this outside of it, or under torch.no_grad"
        )
    check_ungated(graph.model)
    check_whole(graph.model)
    check_writable(graph.model)
    for name, tensor in tensors_of(graph.model).items():
        seen = graph.flow.param_shapes.get(name)
        if seen != tuple(tensor.shape):
            # A table that a forward recomputes for its inputs may change if no edit reaches it.
            made = seen is not None and not isinstance(tensor, nn.Parameter)
            if made and not _is_edited(graph, name):
                continue
            had = f"had {seen}" if seen is not None else "was not there"
            raise RamifyError(
                f"'{name}' has shape {tuple(tensor.shape)} and {had} when the model was traced: "
                "use the graph that the last apply returned, or trace again"
            )
    if graph.superseded:
        raise RamifyError(
            "the model was edited since this graph was made, and its channels have changed: use "
            "the graph that the last apply returned, or trace again"
        )
