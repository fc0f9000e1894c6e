"""Round a selection so that group widths are multiples of a number, such as 8 for hardware.

After the edits the width of a group is a multiple of its number, or unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from ramify.arguments import is_whole
from ramify.cost import growth
from ramify.edit.plan import Channel
from ramify.errors import RamifyError
from ramify.select.candidates import Candidates
from ramify.select.knapsack.value_curve import Option, values_of_changes
from ramify.tracing import ChannelGraph

Multiple: TypeAlias = int | Mapping[str, int]
"""One number for every group, or a number by group (any name that `graph[...]` takes)."""


def check_multiple(multiple_of: Multiple) -> None:
    """Raise an error if a multiple is not a whole number of 1 or more.

    Args:
        multiple_of: the setting of a rule.

    Raises:
        RamifyError: a number that is not whole, or below 1.
    """
    for number in _numbers(multiple_of):
        if not is_whole(number) or number < 1:
            raise RamifyError(
                f"multiple_of must be a whole number of at least 1, or one for each of some "
                f"groups, but got {number!r}"
            )


def multiples(graph: ChannelGraph | None, multiple_of: Multiple) -> dict[str, int]:
    """The multiple of every group of a graph, by its name; 1 if not specified.

    Args:
        graph: the traced model.
        multiple_of: one number, or numbers for some groups.

    Returns:
        The multiples; empty if none is above 1.

    Raises:
        RamifyError: there is no graph to give widths, no such group, or two numbers for one group.
    """
    every, asked = 1, dict[str, int]()
    if not isinstance(multiple_of, Mapping):
        every = multiple_of
    elif graph is not None:
        asked = _by_name(graph, multiple_of)
    if all(number == 1 for number in _numbers(multiple_of)):
        return {}
    if graph is None:
        raise RamifyError(
            "multiple_of takes proposals that carry the traced model, whose widths it rounds: "
            "give each its graph"
        )
    return {group.name: asked.get(group.name, every) for group in graph.groups}


def _numbers(multiple_of: Multiple) -> list[int]:
    return list(multiple_of.values()) if isinstance(multiple_of, Mapping) else [multiple_of]


def _by_name(graph: ChannelGraph, multiple_of: Mapping[str, int]) -> dict[str, int]:
    asked: dict[str, int] = {}
    for name, number in multiple_of.items():
        if asked.setdefault(graph[name].name, number) != number:
            raise RamifyError(
                f"multiple_of asks for {number} of '{name}', and for "
                f"{asked[graph[name].name]} by another name of the same group: give one"
            )
    return asked


def rounded(
    candidates: Candidates,
    chosen: Sequence[int],
    eligible: Iterable[int],
    worth: Sequence[float],
    multiple_of: Multiple,
) -> list[int]:
    """Round a selection so that each group has the nearest multiple that its proposals reach.

    To get more channels, the next splits are added or prunes are removed; to get fewer, the
    reverse: the most valuable selection at that width is taken. If both neighbouring multiples are
    equally near, the more valuable one is taken. A group that reaches neither is left unchanged,
    with a warning.

    Args:
        candidates: all proposals.
        chosen: numbers of the proposals that a rule selected, one per channel.
        eligible: numbers of the proposals that the rule would add next.
        worth: the value of each proposal.
        multiple_of: one number, or numbers for some groups.

    Returns:
        The numbers of the selection.
    """
    asked = multiples(candidates.graph, multiple_of) if chosen else {}
    if not asked:
        return list(chosen)
    more = candidates.by_group(eligible)
    out: list[int] = []
    for name, numbers in candidates.by_group(chosen).items():
        out += _nearest_multiple(candidates, name, numbers, more.get(name, []), worth, asked[name])
    return out


def _nearest_multiple(
    candidates: Candidates,
    name: str,
    chosen: list[int],
    eligible: Sequence[int],
    worth: Sequence[float],
    multiple: int,
) -> list[int]:
    """The numbers of one group's selection, rounded to the nearest reachable multiple."""
    width = candidates.widths[name]
    wanted = width + sum(width_change(candidates, number) for number in chosen)
    if wanted % multiple == 0:
        return chosen
    below = wanted - wanted % multiple
    # Down to the multiple below and up to that above: the chosen ones, and others in that
    # direction.
    found = []
    for target, sign in ((below, -1), (below + multiple, 1)):
        onward = {number for number in eligible if sign * width_change(candidates, number) > 0}
        picked = best_with_change(
            candidates, sorted({*chosen, *onward}), target - width, worth, width
        )
        if picked is not None:
            value = sum(worth[number] for number in picked)
            found.append((abs(target - wanted), -value, picked))
    if found:
        return min(found)[2]
    warnings.warn(
        f"'{name}' keeps its {width} channels: its proposals reach neither {below} nor "
        f"{below + multiple}, the multiples of {multiple} next to the {wanted} selected",
        stacklevel=4,
    )
    return []


def best_with_change(
    candidates: Candidates, numbers: Iterable[int], change: int, worth: Sequence[float], width: int
) -> list[int] | None:
    """The most valuable proposals of one group that together change its width by `change`.

    Args:
        candidates: all proposals.
        numbers: the numbers to choose from.
        change: the change of the width.
        worth: the value of each proposal.
        width: the width of the group.

    Returns:
        Their numbers; None if no selection changes the width by this amount.
    """
    found = values_of_changes(options_by_channel(candidates, numbers, worth), width)
    return found.chosen(change) if change in found.changes else None


def options_by_channel(
    candidates: Candidates, numbers: Iterable[int], worth: Sequence[float]
) -> list[list[Option]]:
    """The options of each channel, as `value_curve` takes them."""
    channels, found = candidates.channels, dict[tuple[str, Channel], list[Option]]()
    for number in numbers:
        option = (width_change(candidates, number), worth[number], number)
        found.setdefault(channels[number], []).append(option)
    return list(found.values())


def width_change(candidates: Candidates, number: int) -> int:
    """The number of channels that a proposal adds."""
    (change,) = growth([candidates.proposals[number].edit]).values()
    return change
