"""Dimensions as an algebra of channel axes, with a union-find that makes them equal.

A dimension is a *term*: an `Atom` (one channel axis that may change), a `Fixed` size (batch, space,
classes and others that must not change), a `Prod` of terms (row-major, as merged by `reshape`) or a
`Sum` of terms (concatenated, as by `cat`). `unify` makes two dimensions equal and refines atoms
into products and sums where necessary. Dimensions that cannot be made exactly equal are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias


class Atom:
    """One channel axis: a leaf until it is refined, or merged into another.

    Attributes:
        size: the number of channels.
        bound: the term that it was refined into or merged with; None while it is a leaf.
        stamp: the count of `bindings` when `bound` was last resolved.
        frozen: why no edit may change it; empty if edits may.
        no_split: why a copy of a channel would change the output.
        inexact: why removing a channel does not equal setting it to zero.
        ranked: why its channels compete with each other, as experts do for a token.
        least: the smallest allowed number of channels.
    """

    __slots__ = (
        "bound", "frozen", "inexact", "least", "no_split", "ranked", "size", "stamp",
    )  # fmt: skip
    bindings = 0
    """The number of atoms bound so far; a term resolved since the latest binding is up to date."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bound: Term | None = None
        self.stamp = -1
        self.frozen = ""
        self.no_split = ""
        self.inexact = ""
        self.ranked = ""
        self.least = 1


@dataclass(frozen=True)
class Fixed:
    """A size that no edit may change, and why."""

    size: int
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Prod:
    """A row-major product of terms, as merged by a reshape."""

    parts: tuple[Term, ...]

    @property
    def size(self) -> int:
        """The number of positions."""
        return math.prod(part.size for part in self.parts)


@dataclass(frozen=True, eq=False)
class Sum:
    """A concatenation of terms, as joined by `cat`."""

    parts: tuple[Term, ...]

    @property
    def size(self) -> int:
        """The number of positions."""
        return sum(part.size for part in self.parts)


Term: TypeAlias = Atom | Fixed | Prod | Sum
UNIT = Fixed(1, "a dimension of size 1")


def resolve(term: Term) -> Term:
    """The term with every merged or refined atom replaced by its term, in normal form."""
    if isinstance(term, Atom):
        # Merged atoms form a chain; the last of them is a leaf or was refined.
        root = term
        while isinstance(root.bound, Atom):
            root = root.bound
        while isinstance(term, Atom) and term is not root:  # path compression
            term.bound, term = root, term.bound
        if root.bound is None:
            return root
        if root.stamp != Atom.bindings:
            root.bound = resolve(root.bound)
            root.stamp = Atom.bindings
        return root.bound
    if isinstance(term, Prod):
        return product([resolve(part) for part in term.parts])
    if isinstance(term, Sum):
        return concat([resolve(part) for part in term.parts])
    return term


def product(parts: Sequence[Term]) -> Term:
    """The row-major product in normal form: flat, neighbouring fixed factors merged, no ones."""
    flat: list[Term] = []
    for part in parts:
        for factor in part.parts if isinstance(part, Prod) else (part,):
            if isinstance(factor, Fixed) and flat and isinstance(flat[-1], Fixed):
                flat[-1] = Fixed(flat[-1].size * factor.size, flat[-1].reason or factor.reason)
            elif not (isinstance(factor, Fixed) and factor.size == 1):
                flat.append(factor)
    if not flat:
        return UNIT
    return flat[0] if len(flat) == 1 else Prod(tuple(flat))


def concat(parts: Sequence[Term]) -> Term:
    """The concatenation in normal form: flat, neighbouring fixed pieces merged."""
    flat: list[Term] = []
    for part in parts:
        for piece in part.parts if isinstance(part, Sum) else (part,):
            if isinstance(piece, Fixed) and flat and isinstance(flat[-1], Fixed):
                flat[-1] = Fixed(flat[-1].size + piece.size, flat[-1].reason or piece.reason)
            elif piece.size:
                flat.append(piece)
    if not flat:
        return Fixed(0)
    if len(flat) > 1 and all(piece is flat[0] for piece in flat):
        return product([Fixed(len(flat), "the number of joined copies"), flat[0]])
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def leaves(term: Term) -> Iterator[Atom]:
    """Every unresolved atom of the term, left to right."""
    return _walk(resolve(term))


def _walk(term: Term) -> Iterator[Atom]:
    if isinstance(term, Atom):
        yield term
    elif isinstance(term, (Prod, Sum)):
        for part in term.parts:
            yield from _walk(part)


def atoms_of(terms: Iterable[Term]) -> set[Atom]:
    """The leaves of several terms."""
    return {leaf for term in terms for leaf in leaves(term)}


def freeze(term: Term, reason: str) -> None:
    """Forbid all edits of these channels; the first reason is kept."""
    for atom in leaves(term):
        atom.frozen = atom.frozen or reason


def forbid_split(term: Term, reason: str) -> None:
    """Forbid copies of these channels, which may still be removed."""
    for atom in leaves(term):
        atom.no_split = atom.no_split or reason


def mark_inexact(term: Term, reason: str) -> None:
    """Note that these channels may be removed, but that this does not equal zeroing them."""
    for atom in leaves(term):
        atom.inexact = atom.inexact or reason


def mark_ranked(term: Term, reason: str, least: int = 1) -> None:
    """Note that these channels compete and `least` must stay; only experts may be removed."""
    for atom in leaves(term):
        atom.ranked = atom.ranked or reason
        atom.least = max(atom.least, min(least, atom.size))


def _bind(atom: Atom, term: Term) -> None:
    """Bind an atom to a term, which inherits its restrictions."""
    inside = list(leaves(term))
    if any(leaf is atom for leaf in inside):  # the other axes have size 1, since sizes agree
        for leaf in inside:
            if leaf is not atom:
                freeze(leaf, "an axis of one channel is dropped")
        return
    for leaf in inside:
        leaf.frozen = leaf.frozen or atom.frozen
        leaf.no_split = leaf.no_split or atom.no_split
        leaf.inexact = leaf.inexact or atom.inexact
        leaf.ranked = leaf.ranked or atom.ranked
        leaf.least = max(leaf.least, min(atom.least, leaf.size))
    atom.bound = term
    Atom.bindings += 1


def unify(one: Term, other: Term, reason: str) -> None:
    """Make two dimensions the same; parts that cannot be exactly the same are frozen."""
    one, other = resolve(one), resolve(other)
    if one is other:
        return
    if one.size != other.size:
        freeze(one, f"{reason}: sizes {one.size} and {other.size} meet")
        freeze(other, f"{reason}: sizes {one.size} and {other.size} meet")
    elif isinstance(one, Fixed) or isinstance(other, Fixed):
        fixed, free = (one, other) if isinstance(one, Fixed) else (other, one)
        assert isinstance(fixed, Fixed)
        if not isinstance(free, Fixed):
            freeze(free, fixed.reason or reason)
    elif isinstance(one, Atom):
        _bind(one, other)
    elif isinstance(other, Atom):
        _bind(other, one)
    elif isinstance(one, Prod) and isinstance(other, Prod):
        _unify_products(list(one.parts), list(other.parts), reason)
    else:
        _unify_sums(one, other, reason)


def _unify_products(left: list[Term], right: list[Term], reason: str) -> None:
    """Unify factor by factor from the left, factoring the larger one by the smaller size."""
    while left and right:
        a, b = resolve(left[0]), resolve(right[0])
        if a.size == b.size:
            unify(a, b, reason)
            left, right = left[1:], right[1:]
        elif 1 in (a.size, b.size):  # an axis of one channel that the other side lacks
            short = left if a.size == 1 else right
            freeze(short.pop(0), f"{reason}: an axis of one channel is dropped")
        else:
            longer, size = (left, b.size) if a.size > b.size else (right, a.size)
            head = longer.pop(0)
            cut = factor(head, size, head.size // size) if head.size % size == 0 else None
            if cut is None:
                for term in (a, b, *left, *right):
                    freeze(term, f"{reason}: factors {a.size} and {b.size} do not divide")
                return
            longer[:0] = cut
    for term in left + right:
        freeze(term, f"{reason}: an axis of one channel is dropped")


def _unify_sums(one: Term, other: Term, reason: str) -> None:
    """Unify piece by piece from the left, cutting the longer one where the other ends."""
    left, right = [one], [other]
    while left and right:
        a, b = resolve(left.pop(0)), resolve(right.pop(0))
        if isinstance(a, Sum):
            left[:0] = list(a.parts)
            right.insert(0, b)
        elif isinstance(b, Sum):
            right[:0] = list(b.parts)
            left.insert(0, a)
        elif a.size == b.size:
            unify(a, b, reason)
        else:
            longer, rest, at = (a, left, b.size) if a.size > b.size else (b, right, a.size)
            cut = split(longer, at)
            if cut is None:
                for term in (a, b, *left, *right):
                    freeze(term, f"{reason}: a boundary falls inside a block of channels")
                return
            rest[:0] = cut
            (right if rest is left else left).insert(0, b if rest is left else a)


def factor(term: Term, outer: int, inner: int) -> tuple[Term, Term] | None:
    """The term as a row-major product of `outer` by `inner`, refining it; None if it is not one."""
    term = resolve(term)
    assert term.size == outer * inner
    if outer == 1:
        return UNIT, term
    if inner == 1:
        return term, UNIT
    if isinstance(term, Fixed):
        return Fixed(outer, term.reason), Fixed(inner, term.reason)
    if isinstance(term, Atom):
        pair = Atom(outer), Atom(inner)
        _bind(term, Prod(pair))
        return pair
    if isinstance(term, Sum):
        return _factor_sum(term, inner)
    # A product: take factors from the left up to `outer`, factoring the last one if necessary.
    done: list[Term] = []
    rest = list(term.parts)
    while rest:
        taken = math.prod(part.size for part in done)
        if taken == outer:
            return product(done), product(rest)
        head = resolve(rest.pop(0))
        need = outer // taken
        if head.size <= need:
            if need % head.size:
                return None
            done.append(head)
            continue
        cut = factor(head, need, head.size // need) if head.size % need == 0 else None
        if cut is None:
            return None
        done.append(cut[0])
        rest.insert(0, cut[1])
    return None


def _factor_sum(term: Sum, inner: int) -> tuple[Term, Term] | None:
    """Factor pieces that each hold whole rows of `inner`: their inner axes are the same."""
    if any(piece.size % inner for piece in term.parts):
        return None
    pairs = [factor(piece, piece.size // inner, inner) for piece in term.parts]
    if any(pair is None for pair in pairs):
        return None
    whole = [pair for pair in pairs if pair is not None]
    for _, row in whole[1:]:
        unify(whole[0][1], row, "rows of joined tensors")
    return concat([resolve(rows) for rows, _ in whole]), resolve(whole[0][1])


def split(term: Term, at: int) -> tuple[Term, Term] | None:
    """The first `at` positions and the rest, refining the term; None if this cuts a block."""
    term = resolve(term)
    assert 0 < at < term.size
    if isinstance(term, Fixed):
        return Fixed(at, term.reason), Fixed(term.size - at, term.reason)
    if isinstance(term, Atom):
        pair = Atom(at), Atom(term.size - at)
        _bind(term, Sum(pair))
        return pair
    if isinstance(term, Sum):  # cut the piece that contains the boundary
        before: list[Term] = []
        for position, piece in enumerate(term.parts):
            start = sum(part.size for part in before)
            if start == at:
                return concat(before), concat(term.parts[position:])
            if start + piece.size > at:
                cut = split(piece, at - start)
                if cut is None:
                    return None
                return concat([*before, cut[0]]), concat([cut[1], *term.parts[position + 1 :]])
            before.append(piece)
        return None
    # A product can be cut between two entries of its first factor.
    row = math.prod(part.size for part in term.parts[1:])
    if at % row:
        return None
    cut = split(term.parts[0], at // row)
    if cut is None:
        return None
    rest = term.parts[1:]
    return product([cut[0], *rest]), product([cut[1], *rest])
