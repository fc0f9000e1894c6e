"""The family tree of the channels of one group: their ancestors, and where to draw them.

Level 0 holds the channels of the seed network; level k those after the k-th edit.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ramify.report.events import Event

QUIET = 0.4  # the height of a family that was never split; a leaf of a split one has height 1


@dataclass(frozen=True)
class Lineage:
    """The family tree of one group's channels, laid out so that no two lines cross.

    Args:
        group: the group's name.
        parents: for each edit, the old index of every new channel.
        heights: for each level, the height of every channel, 0 at the top.
        born: for each level, the edit (from 1) that last split each channel's line, 0 for none.
        extent: the height of the whole tree.
    """

    group: str
    parents: list[list[int]]
    heights: list[list[float]]
    born: list[list[int]]
    extent: float

    def children(self, level: int) -> list[list[int]]:
        """For every channel of a level the channels that it became, none if it was pruned."""
        return _children(len(self.heights[level]), self.parents[level])


def lineages(edits: Sequence[Event]) -> list[Lineage]:
    """Lay out the family tree of every group that the edits changed.

    Args:
        edits: the edit events of one job, in order.

    Returns:
        One tree for each changed group, in the network's order.
    """
    if not edits:
        return []
    trees = []
    for group, width in edits[0]["widths_before"].items():
        parents: list[list[int]] = []
        for edit in edits:
            unchanged = list(range(len(parents[-1]) if parents else width))
            parents.append(list(edit["origin"].get(group, unchanged)))
        before = [width, *(len(level) for level in parents)]
        if any(level != list(range(old)) for old, level in zip(before, parents, strict=False)):
            trees.append(layout(group, width, parents))
    return trees


def layout(group: str, width: int, parents: list[list[int]]) -> Lineage:
    """Place every channel of every level.

    Args:
        group: the group's name.
        width: the number of channels of the seed network.
        parents: for each edit, the old index of every new channel.

    Returns:
        The tree: leaves one below another in depth-first order, parents centred on their children.

    Example:
        >>> layout("conv", 2, [[0, 1, 0]]).heights  # channel 0 splits into 0 and 2
        [[1.0, 2.2], [0.5, 2.2, 1.5]]
    """
    widths = [width, *(len(level) for level in parents)]
    children = [_children(widths[k], level) for k, level in enumerate(parents)]
    heights = [[0.0] * count for count in widths]
    cursor = 0.0

    # Depth first, so that leaves are one below another; a parent is centred on its children.
    def place(level: int, channel: int, room: float) -> float:
        nonlocal cursor
        below = children[level][channel] if level < len(parents) else []
        if below:
            spots = [place(level + 1, child, room) for child in below]
            height = sum(spots) / len(spots)
        else:
            height = cursor + room / 2
            cursor += room
        heights[level][channel] = height
        return height

    born = [[0] * width]
    for edit, level in enumerate(parents, start=1):
        split = [len(offspring) > 1 for offspring in children[edit - 1]]
        born.append([edit if split[parent] else born[-1][parent] for parent in level])
    # A family is split if two channels of a level come from the same channel of the seed network.
    roots, families = list(range(width)), set[int]()
    for level in parents:
        roots = [roots[parent] for parent in level]
        families |= {root for root, count in Counter(roots).items() if count > 1}
    for root in range(width):
        place(0, root, 1.0 if root in families else QUIET)
    return Lineage(group, parents, heights, born, cursor)


def _children(width: int, parents: Sequence[int]) -> list[list[int]]:
    """For each of `width` old channels, the new channels that are copies of it."""
    children: list[list[int]] = [[] for _ in range(width)]
    for child, parent in enumerate(parents):
        children[parent].append(child)
    return children
