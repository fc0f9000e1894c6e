"""Gates where channels are made, before the activation: what they multiply, and when they apply.

Shape letters: `W` channels of a group.
"""

from __future__ import annotations

import torch
from torch import nn

from ramify.relax.gated import Factor, GatedWeight, gate_factors, multiplied
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.dims import atoms_of
from ramify.tracing.groups import run_of
from ramify.tracing.indexing import owners
from ramify.tracing.operation_cost import counted_macs
from ramify.tracing.recorder import tensors_of
from ramify.tracing.verify.comparison import near_equal

INSTEAD = "gate it at its consumers"


def made_factors(graph: ChannelGraph, group: ChannelGroup) -> dict[str, list[Factor]]:
    """What a gate at producers multiplies: rows and biases of all layers that make the channels.

    Args:
        graph: the traced model.
        group: one of its groups.

    Returns:
        Tensor name -> factors.
    """
    found: dict[str, list[Factor]] = {}
    for slot in group.slots:
        if slot.role == "producer":
            channel = owners(graph.indexing.dims[slot.name][slot.dim], group.atom)
            found.setdefault(slot.name, []).append(Factor(slot.dim, channel, 1))
    return found


def why_not_made(graph: ChannelGraph, group: ChannelGroup) -> str:
    """Why the gates of a group cannot be at its producers; empty if they can.

    Args:
        graph: the traced model.
        group: a group that can be gated at its consumers.

    Returns:
        The reason.
    """
    parameters = dict(graph.model.named_parameters(remove_duplicate=False))
    if between := [name for name in group.carriers if name in parameters]:
        return (
            f"'{between[0]}', which has numbers for each channel, stands between what makes it and "
            f"what reads it; {INSTEAD}"
        )
    made = [c for c in graph.flow.contractions if group.atom in atoms_of(c.made)]
    if computed := [name for c in made if not c.moved for name in sorted(c.names)]:
        return f"the weight that makes it is computed from '{computed[0]}'; {INSTEAD}"
    if _normalised(graph, group):
        return f"a norm stands behind what makes it, and would cancel the gate; {INSTEAD}"
    if not _zero_takes_out(graph, group):
        return f"what stands behind its producers makes something of zeros; {INSTEAD}"
    return ""


def _normalised(graph: ChannelGraph, group: ChannelGroup) -> bool:
    """Whether an operation normalises the channels before they are read."""
    for tape, dims in zip(graph.tapes, graph.flow.history, strict=True):
        for op in tape.ops:
            if counted_macs(op, tape.shape)[0] == "norm" and group.atom in atoms_of(
                dims[op.inputs()[0].index]
            ):
                return True
    return False


def _zero_takes_out(graph: ChannelGraph, group: ChannelGroup) -> bool:
    """Whether zeroing every second channel where it is made equals zeroing it where it is read."""
    held, tensors = nn.Module(), tensors_of(graph.model)
    runs = []
    for factors in (gate_factors(graph, group), made_factors(graph, group)):
        place = tensors[next(iter(factors))]
        held.mask = torch.arange(group.width, device=place.device, dtype=place.dtype) % 2
        under = {
            name: GatedWeight(held, [("mask", factor) for factor in each], (), persistent=True)
            for name, each in factors.items()
        }
        with multiplied(graph.model, under):
            runs.append(run_of(graph))
    return near_equal(*runs)
