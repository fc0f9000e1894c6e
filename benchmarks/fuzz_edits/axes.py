"""What the generator knows of its networks: which axis each entry of each tensor belongs to.

A dimension is written down as the list of its entries, each a label of axes and members. A copy of
other members has the same lists with some entries left out or repeated, and an entry's place in the
old list is looked up by its label. Nothing here is taken from Ramify.
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
        width: how many the network has.
        parts: smaller axes that it turned out to be made of.
        side_by_side: whether these lie one after the other, or each in every entry of the last.
        mixed: whether something depends on how many channels there are.
        paired: whether no weight alone reads it: a product of two activations goes over it, or a
            weight both makes and reads it.
        scaled: whether such a product has a scale that depends on how many there are.
    """

    width: int
    parts: tuple[Axis, ...] = ()
    side_by_side: bool = False
    mixed: bool = False
    paired: bool = False
    scaled: bool = False

    def leaves(self) -> Iterator[Axis]:
        """The axes that it is made of; itself where it is one."""
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
    """Every entry of a part in every entry of the part before, as after a flatten."""

    parts: tuple[Term, ...]


@dataclass(frozen=True, eq=False)
class Beside:
    """The entries of all parts, one part after the other, as after a concatenation."""

    parts: tuple[Term, ...]


Term: TypeAlias = Axis | Fixed | Each | Beside


class Member(NamedTuple):
    """A channel of a copy of the network.

    Attributes:
        channel: which channel of the network it is.
        share: what its readers are multiplied by.
        copy: which copy of a split.
    """

    channel: int
    share: float = 1.0
    copy: int = 0


Members: TypeAlias = Mapping[Axis, Sequence[Member]]
"""The channels of each axis that has other ones than the network."""
Entry: TypeAlias = tuple[tuple[object, Member], ...]
Label: TypeAlias = tuple[tuple[object, int], ...]


@dataclass(frozen=True)
class Dim:
    """A dimension of a parameter or buffer.

    Attributes:
        term: what its entries are.
        reads: whether it reads channels, or makes or carries them.
    """

    term: Term
    reads: bool = False


Dims: TypeAlias = Mapping[str, tuple[Dim, ...]]
Sizes: TypeAlias = Callable[[Term], int]


def axes_of(term: Term) -> Iterator[Axis]:
    """The axes that a term is made of."""
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
    # Parts may be alike: their numbers tell them apart.
    return [((number, Member(0)), *entry) for number, part in enumerate(each) for entry in part]


def size(term: Term, members: Members) -> int:
    """How many entries a dimension has."""
    return len(entries(term, members))


def sources(term: Term, members: Members) -> list[int]:
    """For each entry of a dimension of a copy, where the network has it."""
    old = {label(entry): place for place, entry in enumerate(entries(term, {}))}
    return [old[label(entry)] for entry in entries(term, members)]


def label(entry: Entry) -> Label:
    """What an entry is, whichever copy."""
    return tuple((axis, member.channel) for axis, member in entry)


def shares(term: Term, members: Members) -> list[float]:
    """The product of the shares of all copies that each entry belongs to."""
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
    """What is done to each axis, as the generator reads it.

    Attributes:
        gone: channels that are pruned.
        copies: for a channel that is split, the shares of its copies.
        moves: the displacements of copies.
    """

    gone: dict[Axis, set[int]] = field(default_factory=dict)
    copies: dict[Axis, dict[int, tuple[float, ...]]] = field(default_factory=dict)
    moves: list[Move] = field(default_factory=list)

    def members(self) -> dict[Axis, list[Member]]:
        """The channels of the edited network: copies behind, the first in its place."""
        found = {}
        for axis in self.gone.keys() | self.copies.keys():
            gone, copies = self.gone.get(axis, set()), self.copies.get(axis, {})
            stay = [index for index in range(axis.width) if index not in gone]
            found[axis] = [Member(i, copies[i][0] if i in copies else 1.0) for i in stay]
            for index, parts in copies.items():
                found[axis] += [Member(index, s, k) for k, s in enumerate(parts) if k]
        return found


def follow(edits: Edits) -> None:
    """Give the axes the widths that they have after edits."""
    for axis, members in edits.members().items():
        axis.width = len(members)
