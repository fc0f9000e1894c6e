"""How unequally layers are cut: a method's own shares, equal shares, and what lies between.

Across layers the scores of a method may mean nothing, and then whole layers go. So selections are
tried whose floors rise from what was asked for to the width that an equal share of every layer
leaves. Within a layer a method may keep channels that could have stood in for each other; so the
order of another one is tried at the same widths. What loses least is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ramify.cost import RESOURCES, CostModel
from ramify.methods import Proposal
from ramify.tracing import ChannelGraph

PARTS = (0.5, 1.0)
"""How far the floors rise towards equal shares."""
PRECISION = 1e-4


def raised_floors(
    graph: ChannelGraph,
    proposals: Sequence[Proposal],
    chosen: Sequence[Proposal],
    least: Mapping[str, int],
    resource: str | None,
) -> list[dict[str, int]]:
    """Floors from those that were asked for to those of an equal share of every group.

    Args:
        graph: the traced model.
        proposals: every prune that is proposed.
        chosen: what is cut under the floors that were asked for.
        least: these floors.
        resource: what the equal cut has no more of than the chosen one; None: it has as many
            channels.

    Returns:
        Group name -> width, for every part of the way.
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
    """As many prunes of every group as were chosen, in another method's order.

    Args:
        graph: the traced model.
        chosen: prunes.
        proposals: of the other method; a group for which it has too few keeps what was chosen.

    Returns:
        The prunes.
    """
    others, out = _by_group(graph, proposals), []
    for name, prunes in _by_group(graph, chosen).items():
        there = others.get(name, [])
        out += there[: len(prunes)] if len(there) >= len(prunes) else prunes
    return out


def _by_group(graph: ChannelGraph, proposals: Sequence[Proposal]) -> dict[str, list[Proposal]]:
    """The prunes of each group, the least dear first."""
    found: dict[str, list[Proposal]] = {}
    for proposal in sorted(proposals, key=lambda proposal: -proposal.value):
        found.setdefault(graph[proposal.edit.group].name, []).append(proposal)
    return found


def resource_of(sizes: Mapping[str, float] | None) -> str | None:
    """What two cuts under the same budget are alike in; None where only channels count."""
    if sizes is None:
        return None
    return next((name for name in sizes if name in RESOURCES), "macs")
