"""Compares the dimensions of a grown model with those of the original."""

from __future__ import annotations

from collections.abc import Mapping

from ramify.tracing.dims import Atom, Fixed, Prod, Sum, Term, leaves, resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import Change

_SMALL = 5
"""A trial growth would multiply the size of axes with fewer channels several times."""


def same_grown(
    old: Term, new: Term, changes: Mapping[Atom, Change], match: dict[Atom, Atom]
) -> bool:
    """Whether a dimension is as predicted: same form, changed sizes, atoms one to one."""
    if isinstance(old, Atom):
        if old not in changes:  # frozen: only its size must be as before
            return new.size == old.size
        if not isinstance(new, Atom) or new.frozen or new.size != len(changes[old].source):
            return False
        return match.setdefault(old, new) is new
    if isinstance(old, Fixed):
        return new.size == old.size
    alike = isinstance(new, Prod if isinstance(old, Prod) else Sum)
    if not alike or len(old.parts) != len(new.parts):  # type: ignore[union-attr]
        return new.size == old.size and not any(atom in changes for atom in leaves(old))
    pairs = zip(old.parts, new.parts, strict=True)  # type: ignore[union-attr]
    return all(same_grown(a, b, changes, match) for a, b in pairs)


def differ_for_good(old: DimFlow, new: DimFlow, changes: Mapping[Atom, Change]) -> bool:
    """Whether some dimension differs from the prediction, whatever further runs may add.

    Further runs join and cut dimensions; frozen ones stay frozen, and cut ones are not rejoined.

    Args:
        old: the dimensions of the model after all of its runs.
        new: those of the grown model after some of them.
        changes: the growth.

    Returns:
        The answer; also False if it is not known yet.
    """
    return any(
        _lost(resolve(before), resolve(after), changes)
        for name, terms in old.param_dims.items()
        for before, after in zip(terms, new.param_dims[name], strict=True)
    )


def _lost(old: Term, new: Term, changes: Mapping[Atom, Change]) -> bool:
    """Whether an axis of a dimension is frozen, cut or does not have the predicted size."""
    if isinstance(old, Atom):
        wanted = old in changes and len(changes[old].source)
        kept = isinstance(new, Atom) and not new.frozen and new.size == wanted
        return bool(wanted) and not kept
    if isinstance(old, Fixed) or not isinstance(new, type(old)):
        return False
    pairs = list(zip(old.parts, new.parts, strict=False))
    alike = len(old.parts) == len(new.parts)
    return alike and any(_lost(a, b, changes) for a, b in pairs)


def small_factors(flow: DimFlow) -> set[Atom]:
    """Small axes of which several are factors of one dimension of a parameter."""
    terms = (term for terms in flow.param_dims.values() for term in map(resolve, terms))
    small = (
        [part for part in leaves(term) if part.size < _SMALL]
        for term in terms
        if isinstance(term, Prod)
    )
    return {atom for atoms in small if len(atoms) > 1 for atom in atoms}
