"""Proposals by channel and group, with at most one edit per channel and one channel left."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ramify.arguments import each_of, shown
from ramify.edit import Prune
from ramify.edit.plan import Channel
from ramify.errors import RamifyError
from ramify.methods import Proposal
from ramify.tracing import ChannelGraph


@dataclass(frozen=True)
class Candidates:
    """Proposals for one model, with what rules need to know of their channels.

    Attributes:
        proposals: as given, without excess prunes in groups that need several channels.
        graph: the traced model, if a proposal has it.
        groups: the group of each proposal, by its name in the graph.
        widths: the width of each group; without a graph, the number of channels proposed.
    """

    proposals: list[Proposal]
    graph: ChannelGraph | None
    groups: list[str]
    widths: dict[str, int]

    @cached_property  # rules read it once for every proposal
    def channels(self) -> list[tuple[str, Channel]]:
        """The channel of each proposal; several proposals may have the same channel."""
        edits = (proposal.edit for proposal in self.proposals)
        return [(name, edit.channel) for name, edit in zip(self.groups, edits, strict=True)]

    def is_prune(self, number: int) -> bool:
        """Whether this proposal removes its channel."""
        return isinstance(self.proposals[number].edit, Prune)

    def by_group(self, numbers: Iterable[int]) -> dict[str, list[int]]:
        """These proposals by the name of their group, in order."""
        own: dict[str, list[int]] = {}
        for number in numbers:
            own.setdefault(self.groups[number], []).append(number)
        return own

    def ranked(self, worth: Sequence[float], paying: Iterable[int]) -> list[int]:
        """The most valuable of the paying proposals for each channel, best first."""
        channels, best = self.channels, dict[tuple[str, Channel], int]()
        for number in sorted(paying, key=lambda number: -worth[number]):
            best.setdefault(channels[number], number)
        return list(best.values())

    def without_last_prunes(self, ranked: Sequence[int]) -> list[int]:
        """The same, without the last prune of each group that would lose all its channels."""
        # From the worst on: the first prune found in such a group is the one to leave out.
        gone = Counter(self.groups[number] for number in ranked if self.is_prune(number))
        out = []
        for number in reversed(ranked):
            name = self.groups[number]
            if self.is_prune(number) and gone[name] >= self.widths[name]:
                gone[name] = 0
            else:
                out.append(number)
        return out[::-1]


def _leaving_enough(
    given: Sequence[Proposal], graph: ChannelGraph, names: Mapping[str, str]
) -> list[Proposal]:
    """Keep only the best prunes of groups with a minimum width, as many as the groups can lose."""
    out = list(given)
    for group in graph.groups:
        if group.least == 1:
            continue
        prunes = [
            proposal
            for proposal in given
            if isinstance(proposal.edit, Prune) and names[proposal.edit.group] == group.name
        ]
        most = group.width - group.least
        dropped = {id(p) for p in sorted(prunes, key=lambda p: -p.value)[most:]}
        out = [proposal for proposal in out if id(proposal) not in dropped]
    return out


def gather(proposals: Iterable[Proposal], graph: ChannelGraph | None = None) -> Candidates:
    """Gather proposals for a rule.

    Args:
        proposals: what methods returned for one model.
        graph: the traced model that the proposals are for; None to take it from them.

    Returns:
        The candidates.

    Raises:
        RamifyError: proposals for different traces, or a value that is not a finite number.
    """
    given = each_of(proposals, "proposals", "proposals")
    for one in given:
        if not isinstance(one, Proposal):
            raise RamifyError(f"`proposals` holds {shown(one)}, where a Proposal is expected")
    graphs = {id(p.graph): p.graph for p in given if p.graph is not None}
    made_with = next(iter(graphs.values()), None)
    stale = graph is not None and made_with is not None and _is_other(made_with, graph)
    if len(graphs) > 1 or stale:
        raise RamifyError(
            "the proposals are for different traces: select among those that were made with one "
            "graph, the one that the last apply returned"
        )
    graph = made_with if graph is None else graph
    for proposal in given:
        if not math.isfinite(proposal.value):
            raise RamifyError(
                f"the proposal for channel {proposal.edit.channel} of '{proposal.edit.group}' has "
                f"the value {proposal.value}: look for a loss or weights that are not finite"
            )
    written = {proposal.edit.group for proposal in given}
    if graph is None:
        names = {name: name for name in written}
        proposed = {(proposal.edit.group, proposal.edit.channel) for proposal in given}
        widths = dict(Counter(name for name, _ in proposed))
    else:
        names = {name: graph[name].name for name in written}
        given = _leaving_enough(given, graph, names)
        widths = {name: graph[name].width for name in names.values()}
    return Candidates(given, graph, [names[proposal.edit.group] for proposal in given], widths)


def _is_other(one: ChannelGraph, graph: ChannelGraph) -> bool:
    """Whether a graph is for a network that has been edited since, or for one of other groups."""
    edited = one.superseded and one.model is graph.model
    return one is not graph and (edited or _widths(one) != _widths(graph))


def _widths(graph: ChannelGraph) -> dict[str, int]:
    return {group.name: group.width for group in graph.groups}
