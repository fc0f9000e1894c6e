"""How unequally layers are cut: a method's own shares, equal shares, and steps in between.

The scores of a method may not be comparable across layers, and then whole layers are removed. So
selections are also tried with floors that rise from the requested ones to the widths of an equal
share of every layer. Within a layer a method may keep channels that can replace each other, so the
order of another method is also tried at the same widths. The selection with the lowest loss is
kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ramify.cost import RESOURCES, CostModel
from ramify.methods import Proposal
from ramify.tracing import ChannelGraph

PARTS = (0.5, 1.0)
"""How far the floors are raised towards equal shares."""
PRECISION = 1e-4


def raised_floors(
    graph: ChannelGraph,
    proposals: Sequence[Proposal],
    chosen: Sequence[Proposal],
    least: Mapping[str, int],
    resource: str | None,
) -> list[dict[str, int]]:
    """Floors between the requested ones and those of an equal share of every group.

    Args:
        graph: the traced model.
        proposals: all proposed prunes.
        chosen: the selection under the requested floors.
        least: the requested floors.
        resource: the equal cut uses no more of this than the selection; None: it removes as many
            channels.

    Returns:
        Group name -> width, for every step.
    """
    ranked, model = _by_group(graph, proposals), CostModel(graph)
    own = model.added([proposal.edit for proposal in chosen])

    def left(share: float) -> dict[str, int]:
        return {name: max(1, round(share * graph[name].width)) for name in ranked}

    def fits(share: float) -> bool:
        cut = [
            proposal.edit
            for name, width in left(share).items()
            for proposal in ranked[name][: graph[name].width - width]
        ]
        if resource is None:
            return len(cut) >= len(chosen)
        return model.added(cut).of(resource) <= own.of(resource)

    # The largest share of every group that fits.
    low, high = 0.0, 1.0
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    equal = left(low)
    return [
        {
            name: round(floor + part * max(0, equal.get(name, floor) - floor))
            for name, floor in least.items()
        }
        for part in PARTS
    ]


def in_order_of(
    graph: ChannelGraph, chosen: Sequence[Proposal], proposals: Sequence[Proposal]
) -> list[Proposal]:
    """The same number of prunes in every group, in another method's order.

    Args:
        graph: the traced model.
        chosen: the selected prunes.
        proposals: those of the other method; a group with too few of them keeps its selection.

    Returns:
        The prunes.
    """
    others, out = _by_group(graph, proposals), []
    for name, prunes in _by_group(graph, chosen).items():
        there = others.get(name, [])
        out += there[: len(prunes)] if len(there) >= len(prunes) else prunes
    return out


def _by_group(graph: ChannelGraph, proposals: Sequence[Proposal]) -> dict[str, list[Proposal]]:
    """The prunes of each group, least loss first."""
    found: dict[str, list[Proposal]] = {}
    for proposal in sorted(proposals, key=lambda proposal: -proposal.value):
        found.setdefault(graph[proposal.edit.group].name, []).append(proposal)
    return found


def resource_of(sizes: Mapping[str, float] | None) -> str | None:
    """The resource that two cuts to the same budget share; None if only channels count."""
    if sizes is None:
        return None
    return next((name for name in sizes if name in RESOURCES), "macs")
