"""How narrow and how wide a group may become under any rule, and which groups may change."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ramify.arguments import is_whole, texts_of
from ramify.edit.plan import Channel
from ramify.errors import RamifyError
from ramify.methods import Proposal
from ramify.select.candidates import Candidates, gather
from ramify.select.knapsack.value_curve import values_of_changes
from ramify.select.rounding import options_by_channel, width_change
from ramify.tracing import ChannelGraph, ChannelGroup

Bound: TypeAlias = int | Mapping[str, int]
"""A width for every group, or widths by group: a name that `graph[...]` takes, or a pattern."""


@dataclass(frozen=True)
class WidthBounds:
    """How narrow and how wide groups may become, and which of them may change.

    Attributes:
        keep: the floor, as for :func:`ramify.grow`.
        ceiling: the ceiling, as for :func:`ramify.grow`.
        groups: names or patterns of the groups that may change; None for all.

    Raises:
        RamifyError: a bound is not a whole number of 1 or more, or a name is not a string.
    """

    keep: Bound | None = None
    ceiling: Bound | None = None
    groups: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self._patterns()
        for what, given in (("keep", self.keep), ("ceiling", self.ceiling)):
            widths = given.values() if isinstance(given, Mapping) else [given]
            for width in widths:
                if given is not None and not (is_whole(width) and width > 0):
                    raise RamifyError(
                        f"{what} must be a whole number of channels of at least 1, or one for each "
                        f"of some groups, but got {width!r}"
                    )

    def plain(self) -> dict[str, int | dict[str, int] | list[str]]:
        """The bounds that are set, as plain values by their names."""
        given = {"keep": self.keep, "ceiling": self.ceiling}
        found: dict[str, int | dict[str, int] | list[str]] = {
            name: {group: int(width) for group, width in bound.items()}
            if isinstance(bound, Mapping)
            else int(bound)
            for name, bound in given.items()
            if bound is not None
        }
        return found if self.groups is None else found | {"groups": self._patterns()}

    def _patterns(self) -> list[str]:
        names = () if self.groups is None else self.groups
        return texts_of(names, "groups", "names or patterns of groups")

    def changeable(self, graph: ChannelGraph) -> set[str]:
        """The names of the groups that may change.

        Args:
            graph: the traced network.

        Returns:
            The names; without patterns those of all groups that can be split or pruned.

        Raises:
            RamifyError: a name or pattern matches no such group.
        """
        if self.groups is None:
            return {group.name for group in graph.groups if _can_change(group)}
        return {name for asked in self._patterns() for name in _meant(graph, asked, "groups")}

    def of_groups(self, graph: ChannelGraph, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The proposals for groups that may change, in their order."""
        if self.groups is None:
            return list(proposals)
        free = self.changeable(graph)
        return [proposal for proposal in proposals if graph[proposal.edit.group].name in free]

    def floors_and_ceilings(self, graph: ChannelGraph) -> tuple[dict[str, int], dict[str, int]]:
        """The bounds of the groups of a network, by name.

        Args:
            graph: the traced network.

        Returns:
            The floor of each group that has one, and the ceiling of each group that has one.

        Raises:
            RamifyError: a name or pattern matches no group, or a floor is above its ceiling.
        """
        self.changeable(graph)
        floors = _by_group(graph, self.keep, "keep", max)
        ceilings = _by_group(graph, self.ceiling, "ceiling", min)
        for name in floors.keys() & ceilings.keys():
            if floors[name] > ceilings[name]:
                raise RamifyError(
                    f"'{name}' is to keep {floors[name]} channels and may have no more than "
                    f"{ceilings[name]}: lower keep, or raise the ceiling"
                )
        return floors, ceilings

    def allowed(self, graph: ChannelGraph, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The proposals of which any selection keeps to the bounds.

        For a group that could become too wide, the most valuable splits together are kept, and for
        a group that could become too narrow, the prunes that lose least. Room that prunes make is
        not used in the same round.

        Args:
            graph: the traced network.
            proposals: the proposals of a method.

        Returns:
            Those proposals, in their order.

        Raises:
            RamifyError: as for :meth:`floors_and_ceilings`.
        """
        floors, ceilings = self.floors_and_ceilings(graph)
        if not (floors or ceilings):
            return list(proposals)
        candidates = gather(proposals, graph)
        proposals = candidates.proposals
        kept: set[int] = set()
        for name, numbers in candidates.by_group(range(len(proposals))).items():
            width = candidates.widths[name]
            prunes = [number for number in numbers if candidates.is_prune(number)]
            splits = [number for number in numbers if not candidates.is_prune(number)]
            if name in floors:
                worth = [proposal.value for proposal in proposals]
                prunes = candidates.ranked(worth, prunes)[: max(0, width - floors[name])]
            if name in ceilings:
                splits = _narrow_enough(candidates, splits, width, max(width, ceilings[name]))
            kept |= {*prunes, *splits}
        return [proposal for number, proposal in enumerate(proposals) if number in kept]


def _by_group(
    graph: ChannelGraph, given: Bound | None, what: str, tighter: Callable[[int, int], int]
) -> dict[str, int]:
    """A bound by the name of each group that it applies to; the tightest if there are several."""
    if not isinstance(given, Mapping):
        names = [group.name for group in graph.groups if _can_change(group)]
        return {} if given is None else dict.fromkeys(names, given)
    found: dict[str, int] = {}
    for asked, width in given.items():
        for name in _meant(graph, asked, what):
            found[name] = tighter(found.get(name, width), width)
    return found


def _meant(graph: ChannelGraph, asked: str, what: str) -> list[str]:
    """The names of the groups that can change and that a name or pattern means."""
    meant = [group.name for group in graph.matching(asked) if _can_change(group)]
    if not meant and any(sign in asked for sign in "*?["):
        names = [group.name for group in graph.groups if _can_change(group)]
        near = difflib.get_close_matches(asked, names, n=3, cutoff=0.3) or names[:3]
        hint = ", ".join(f"'{name}'" for name in near)
        raise RamifyError(
            f"{what}: no group of channels matches '{asked}'; print(graph) and `ramify show` "
            f"list their names, of which the nearest are {hint}"
        )
    if not (meant or _can_change(group := graph[asked])):
        raise RamifyError(
            f"{what}: the channels of '{asked}' can neither be split nor pruned: {group.reason}"
        )
    return meant or [group.name]


def _can_change(group: ChannelGroup) -> bool:
    return group.can_split or group.can_prune


def _narrow_enough(
    candidates: Candidates, splits: Sequence[int], width: int, ceiling: int
) -> list[int]:
    """The splits of a group that together make it no wider than its ceiling."""
    if width + sum(_widest(candidates, splits).values()) <= ceiling:
        return list(splits)
    paying = [number for number in splits if candidates.proposals[number].pays]
    worth = [proposal.value for proposal in candidates.proposals]
    # The most valuable selection within the room limits the copies of each channel; splits into
    # fewer copies are kept, so that a rule can choose among them.
    found = values_of_changes(options_by_channel(candidates, paying, worth), width)
    within = [change for change in found.changes.tolist() if change <= ceiling - width]
    most = _widest(candidates, found.chosen(max(within)))
    channels = candidates.channels
    return [n for n in paying if width_change(candidates, n) <= most.get(channels[n], 0)]


def _widest(candidates: Candidates, numbers: Sequence[int]) -> dict[tuple[str, Channel], int]:
    """The largest number of channels that proposals add for each channel."""
    most: dict[tuple[str, Channel], int] = {}
    for number in numbers:
        channel = candidates.channels[number]
        most[channel] = max(most.get(channel, 0), width_change(candidates, number))
    return most
