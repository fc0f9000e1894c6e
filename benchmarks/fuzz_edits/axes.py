"""The generator's knowledge of its networks: the axis of each entry of each tensor.

A dimension is described as the list of its entries, each a label of axes and members. A copy with
other members has the same lists with some entries left out or repeated, and an entry's position in
the old list is found by its label. This file uses no code from Ramify.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple, TypeAlias

from torch import Tensor


@dataclass(eq=False)
class Axis:
    """Channels that change together.

    Attributes:
        width: number of channels in the network.
        parts: smaller axes of which it consists.
        side_by_side: whether the parts are concatenated rather than nested.
        mixed: whether something depends on the number of channels.
        paired: whether it is not only read by weights: a product of two activations contracts it,
            or one weight both produces and reads it.
        scaled: whether such a product has a scale that depends on the number of channels.
    """

    width: int
    parts: tuple[Axis, ...] = ()
    side_by_side: bool = False
    mixed: bool = False
    paired: bool = False
    scaled: bool = False

    def leaves(self) -> Iterator[Axis]:
        """The axes of which it consists; itself if it has no parts."""
        for part in self.parts:
            yield from part.leaves()
        if not self.parts:
            yield self


@dataclass(frozen=True, eq=False)
class Fixed:
    """Entries that no edit changes."""

    width: int


@dataclass(frozen=True, eq=False)
class Each:
    """Nested parts: every entry of a part in every entry of the part before, as in a flatten."""

    parts: tuple[Term, ...]


@dataclass(frozen=True, eq=False)
class Beside:
    """Concatenated parts: the entries of all parts, one part after another."""

    parts: tuple[Term, ...]


Term: TypeAlias = Axis | Fixed | Each | Beside


class Member(NamedTuple):
    """A channel of a copy of the network.

    Attributes:
        channel: the channel of the network.
        share: the factor of its readers.
        copy: the number of the copy in a split.
    """

    channel: int
    share: float = 1.0
    copy: int = 0


Members: TypeAlias = Mapping[Axis, Sequence[Member]]
"""The channels of each axis that differs from the network."""
Entry: TypeAlias = tuple[tuple[object, Member], ...]
Label: TypeAlias = tuple[tuple[object, int], ...]


@dataclass(frozen=True)
class Dim:
    """A dimension of a parameter or buffer.

    Attributes:
        term: the description of its entries.
        reads: whether it reads channels, rather than producing or carrying them.
    """

    term: Term
    reads: bool = False


Dims: TypeAlias = Mapping[str, tuple[Dim, ...]]
Sizes: TypeAlias = Callable[[Term], int]


def axes_of(term: Term) -> Iterator[Axis]:
    """The axes in a term."""
    if isinstance(term, Axis):
        yield from term.leaves()
    elif not isinstance(term, Fixed):
        for part in term.parts:
            yield from axes_of(part)


def entries(term: Term, members: Members) -> list[Entry]:
    """The entries of a dimension, in order."""
    if isinstance(term, Axis) and term.parts:
        term = Beside(term.parts) if term.side_by_side else Each(term.parts)
    if isinstance(term, Axis):
        return [((term, member),) for member in members.get(term, _whole(term.width))]
    if isinstance(term, Fixed):
        return [((term, member),) for member in _whole(term.width)]
    each = [entries(part, members) for part in term.parts]
    if isinstance(term, Each):
        return [sum(found, ()) for found in product(*each)]
    # Parts may be equal, so their numbers distinguish them.
    return [((number, Member(0)), *entry) for number, part in enumerate(each) for entry in part]


def size(term: Term, members: Members) -> int:
    """How many entries a dimension has."""
    return len(entries(term, members))


def sources(term: Term, members: Members) -> list[int]:
    """For each entry of a dimension of a copy, its index in the network."""
    old = {label(entry): place for place, entry in enumerate(entries(term, {}))}
    return [old[label(entry)] for entry in entries(term, members)]


def label(entry: Entry) -> Label:
    """The label of an entry, without the number of the copy."""
    return tuple((axis, member.channel) for axis, member in entry)


def shares(term: Term, members: Members) -> list[float]:
    """For each entry, the product of the shares of all copies that it belongs to."""
    return [math.prod(member.share for _, member in entry) for entry in entries(term, members)]


def _whole(width: int) -> list[Member]:
    return [Member(index) for index in range(width)]


class Move(NamedTuple):
    """The displacement of the copies of one channel in one tensor."""

    name: str
    axis: Axis
    channel: int
    offset: Tensor


@dataclass
class Edits:
    """The edits of each axis, as the generator interprets them.

    Attributes:
        gone: the pruned channels.
        copies: for each split channel, the shares of its copies.
        moves: the displacements of copies.
    """

    gone: dict[Axis, set[int]] = field(default_factory=dict)
    copies: dict[Axis, dict[int, tuple[float, ...]]] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)

    def members(self) -> dict[Axis, list[Member]]:
        """The channels of the edited network: the first copy in place, the others at the end."""
        found = {}
        for axis in self.gone.keys() | self.copies.keys():
            gone, copies = self.gone.get(axis, set()), self.copies.get(axis, {})
            stay = [index for index in range(axis.width) if index not in gone]
            found[axis] = [Member(i, copies[i][0] if i in copies else 1.0) for i in stay]
            for index, parts in copies.items():
                found[axis] += [Member(index, s, k) for k, s in enumerate(parts) if k]
        return found


def follow(edits: Edits) -> None:
    """Set the axes to their widths after edits."""
    for axis, members in edits.members().items():
        axis.width = len(members)
