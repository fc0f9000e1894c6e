"""The plan: what edits mean for every axis, worked out before anything changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ramify.errors import RamifyError
from ramify.trace import ChannelGraph, ChannelGroup
from ramify.trace.layout import Change, Slot
from ramify.trace.recorder import tensors_of
from ramify.trace.terms import Atom


@dataclass(frozen=True)
class Prune:
    """Remove one channel.

    Args:
        group: any name that `graph[...]` takes.
        channel: its index in the group, before any edit of the same call.
    """

    group: str
    channel: int


@dataclass(frozen=True)
class Split:
    """Replace one channel by copies, whose outgoing weights are `weights` of the old.

    The first copy stays in the channel's place; the others are appended at the end.

    Args:
        group: any name that `graph[...]` takes.
        channel: its index in the group, before any edit of the same call.
        weights: what the outgoing weights of each copy are multiplied by; they sum to 1.
        offsets: displacement of each copy's incoming weights: producer name -> tensor of shape
            (copies, *shape of one channel's kernel); zeros where absent.
    """

    group: str
    channel: int
    weights: tuple[float, ...] = (0.5, 0.5)
    offsets: Mapping[str, Tensor] = field(default_factory=dict)


Edit: TypeAlias = Prune | Split


@dataclass(frozen=True)
class Plan:
    """What edits do: a change for each axis, and where the displaced copies end up."""

    changes: dict[Atom, Change]
    splits: list[tuple[ChannelGroup, Split, list[int]]]
    """(group, edit, new channel of each copy)"""


def plan_edits(graph: ChannelGraph, edits: Iterable[Edit]) -> Plan:
    """Check the edits against the graph and work out every axis' change.

    Args:
        graph: the traced model.
        edits: what to do.

    Returns:
        The plan; nothing has changed.

    Raises:
        RamifyError: an edit is not possible, with the reason.
    """
    by_group: dict[Atom, tuple[ChannelGroup, dict[int, Edit]]] = {}
    for edit in edits:
        if not isinstance(edit, (Prune, Split)):
            raise RamifyError(f"an edit is a Prune or a Split, and got a {type(edit).__name__}")
        group = graph[edit.group]
        _validate(graph, group, edit)
        _, taken = by_group.setdefault(group.atom, (group, {}))
        if edit.channel in taken:
            raise RamifyError(
                f"channel {edit.channel} of '{group.name}' is edited twice in one call: give one "
                "Split with more copies, or apply one edit after the other"
            )
        taken[edit.channel] = edit
    plan = Plan({}, [])
    for group, taken in by_group.values():
        plan.changes[group.atom] = _change(group, taken, plan)
    return plan


def _change(group: ChannelGroup, taken: Mapping[int, Edit], plan: Plan) -> Change:
    gone = {channel for channel, edit in taken.items() if isinstance(edit, Prune)}
    source = [channel for channel in range(group.width) if channel not in gone]
    if not source:
        raise RamifyError(
            f"these edits would leave '{group.name}' without a channel: keep at least one of its "
            f"{group.width}"
        )
    scale = [1.0] * len(source)
    for channel, edit in taken.items():
        if isinstance(edit, Split):
            new = [source.index(channel)]
            scale[new[0]] = edit.weights[0]
            for weight in edit.weights[1:]:
                new.append(len(source))
                source.append(channel)
                scale.append(weight)
            plan.splits.append((group, edit, new))
    return Change(np.array(source, dtype=np.int64), np.array(scale))


def _validate(graph: ChannelGraph, group: ChannelGroup, edit: Edit) -> None:
    whole = isinstance(edit.channel, (int, np.integer)) and not isinstance(edit.channel, bool)
    if not whole or not 0 <= edit.channel < group.width:
        raise RamifyError(
            f"'{group.name}' has channels 0 to {group.width - 1}, and the edit names {edit.channel}"
        )
    if isinstance(edit, Prune):
        if group.atom.frozen:
            raise RamifyError(f"'{group.name}' cannot be pruned: {group.why}")
        return
    if not group.can_split:
        raise RamifyError(f"'{group.name}' cannot be split: {group.why}")
    if not edit.weights or not math.isclose(sum(edit.weights), 1.0, abs_tol=1e-6):
        raise RamifyError(
            f"the weights of a split sum to 1, so that the output stays, and these sum to "
            f"{sum(edit.weights):g}: {tuple(edit.weights)}"
        )
    _validate_offsets(graph, group, edit)


def _validate_offsets(graph: ChannelGraph, group: ChannelGroup, edit: Split) -> None:
    for name, offset in edit.offsets.items():
        slot = next((s for s in group.slots if s.name == name and s.role == "producer"), None)
        if slot is None:
            raise RamifyError(
                f"offsets displace what makes the channel, and '{name}' does not make channels "
                f"of '{group.name}': give {', '.join(group.producers)}"
            )
        expected = (len(edit.weights), *kernel_shape(graph, group, slot))
        if not isinstance(offset, Tensor) or tuple(offset.shape) != expected:
            seen = f"shape {tuple(offset.shape)}" if isinstance(offset, Tensor) else type(offset)
            raise RamifyError(
                f"the offset of '{name}' has {seen}, and a tensor of shape {expected} is needed: "
                "(copies, *shape of one channel's kernel)"
            )
        if not bool(torch.isfinite(offset).all()):
            raise RamifyError(f"the offset of '{name}' holds values that are not finite")


def kernel_shape(graph: ChannelGraph, group: ChannelGroup, slot: Slot) -> tuple[int, ...]:
    """The shape of one channel's part of a tensor of the group."""
    tensor = tensors_of(graph.model)[slot.name]
    count = graph.positions(group, slot).shape[1]
    rest = tuple(n for dim, n in enumerate(tensor.shape) if dim != slot.dim)
    return rest if count == 1 else (count, *rest)


def check_current(graph: ChannelGraph) -> None:
    """The graph describes the model as it is now, and what is made here may be trained.

    Raises:
        RamifyError: the model was edited or has another shape since it was traced, or this is
            inference mode.
    """
    if torch.is_inference_mode_enabled():
        raise RamifyError(
            "under torch.inference_mode nothing has gradients, and new weights could never be "
            "trained: call this outside of it, or under torch.no_grad"
        )
    for name, tensor in tensors_of(graph.model).items():
        seen = graph.labels.names.get(name)
        if seen != tuple(tensor.shape):
            had = f"had {seen}" if seen is not None else "was not there"
            raise RamifyError(
                f"'{name}' has shape {tuple(tensor.shape)} and {had} when the model was traced: "
                "use the graph that the last apply returned, or trace again"
            )
    if graph.superseded:
        raise RamifyError(
            "the model was edited since this graph was made, and its channels are others now: use "
            "the graph that the last apply returned, or trace again"
        )
