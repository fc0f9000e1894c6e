"""Products of two activations: which factor's rows take the scale of a copied channel.

q·kᵀ sums over the head dimension without a weight. A channel of q and k can be copied all the same
if the rows that make one of the two factors take the copies' weights; and where the forward scales
the product by the number of channels (1/√d), these rows keep the scale what it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ramify.tracing.attention.producing import Makers, Rows
from ramify.tracing.dims import Atom, atoms_of, resolve
from ramify.tracing.indexing import Powers, Side, Sides, owners
from ramify.tracing.propagate import Contraction, Key, Labels, places
from ramify.tracing.recorder import Tape

Number = tuple[Key, int]
"""Which product of activations: an axis that it sums over, and which of those that sum over it.

Other widths may take another kernel of attention, which multiplies one product more or less.
"""


@dataclass(frozen=True)
class Sided:
    """One product of activations whose scale some rows can take.

    Attributes:
        number: which product it is.
        read: the product.
        rows: the rows.
        between: the operations from those rows to the product.
        beyond: those from what makes the other factor.
    """

    number: Number
    read: Contraction
    rows: Rows
    between: frozenset[int]
    beyond: frozenset[int]


def products(labels: Labels) -> list[tuple[Number, Contraction]]:
    """Every sum of two activations over channels that a parameter holds, in order."""
    keys, seen = places(labels), Counter[Key]()
    found = []
    for read in labels.contractions:
        summed = [keys[atom] for atom in atoms_of(read.read) if atom in keys]
        if summed and not read.names:
            found.append(((min(summed), seen[min(summed)]), read))
            seen[min(summed)] += 1
    return found


def sided(labels: Labels) -> dict[Atom, list[Sided]]:
    """For every axis that products of activations sum over: its products, where rows take scales.

    Args:
        labels: the labelled runs.

    Returns:
        Only axes for which it can be done in every product.
    """
    by_atom: dict[Atom, list[tuple[Number, Contraction]]] = {}
    for number, read in products(labels):
        for atom in atoms_of(read.read):
            by_atom.setdefault(atom, []).append((number, read))
    found = {}
    for atom, reads in by_atom.items():
        for first in (True, False):
            chosen = _choose(labels, atom, reads, first)
            if chosen is not None:
                found[atom] = chosen
                break
    return found


def sides_of(labels: Labels, powers: Mapping[Number, Powers]) -> Sides:
    """The rows that take scales, by tensor and dimension.

    Args:
        labels: the labelled runs.
        powers: product -> what its scale hangs on.

    Returns:
        The sides.
    """
    found: dict[tuple[str, int], dict[Atom, list[tuple[Rows, Powers]]]] = {}
    given: set[tuple[tuple[str, int], Number]] = set()
    for atom, products_ in sided(labels).items():
        for each in products_:
            for place in each.rows:
                # A product that sums over several axes is made up for once.
                own = powers.get(each.number, ()) if (place, each.number) not in given else ()
                given.add((place, each.number))
                found.setdefault(place, {}).setdefault(atom, []).append((each.rows, own))
    return {
        place: tuple(
            Side(atom, tuple((rows[place], own) for rows, own in parts))
            for atom, parts in by_atom.items()
        )
        for place, by_atom in found.items()
    }


def _choose(
    labels: Labels, atom: Atom, reads: Sequence[tuple[Number, Contraction]], first: bool
) -> list[Sided] | None:
    """The first or the second factor of every product; None where that does not do."""
    out: list[Sided] = []
    operands: dict[int, set[tuple[int, int]]] = {}
    for number, read in reads:
        one, other = (read.source, read.weight) if first else (read.weight, read.source)
        makers = makers_of(labels, read.tape)
        rows = makers.rows(one, read.op)
        if rows is None or not _carried(labels, atom, rows):
            return None
        if not makers.apart(other, read.op, rows):
            return None
        ways = (makers.passed(factor, read.op) for factor in (one, other))
        out.append(Sided(number, read, rows, *ways))
        operands.setdefault(id(read.tape), set()).add((read.op, one.index))
    for each in out:
        makers = makers_of(labels, each.read.tape)
        if not makers.only_in(each.rows, operands[id(each.read.tape)]):
            return None
    return out


def _carried(labels: Labels, atom: Atom, rows: Rows) -> bool:
    """Whether every one of the rows belongs to a channel of the axis."""
    for (name, dim), mask in rows.items():
        owner = owners(resolve(labels.slots[name][dim]), atom)
        if bool((owner[mask] < 0).any()):
            return False
    return True


def makers_of(labels: Labels, tape: Tape) -> Makers:
    """The makers of a tape, worked out once."""
    for known in labels.makers:
        if known.tape is tape:
            return known
    made = Makers(
        tape,
        labels.names,
        labels.slots,
        {read.op: read for read in labels.contractions if read.tape is tape},
    )
    labels.makers.append(made)
    return made
