"""Ties dimensions of which a forward computes one size from others.

If `qkv.reshape(n, l, 3, heads, c // heads)` takes `c` from `x.shape[-1]`, the number of channels of
`x` must equal that of all heads together after every edit, or the forward fails. So they are tied:
removing a dimension of every head removes as many channels of the stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ramify.tracing.dims import Atom, Fixed, Prod, Sum, Term, concat, product, resolve, unify
from ramify.tracing.flow import DimFlow
from ramify.tracing.sizes import Size, Use

_REASON = "the forward computes the size of one from the other's"


def relate(flow: DimFlow, uses: Sequence[Use]) -> None:
    """Tie the dimensions whose sizes the forward computed from those of other dimensions.

    Args:
        flow: the dimensions of the latest tape.
        uses: the sizes that the forward passed to functions.
    """
    for use in uses:
        if not _from_a_dimension(use.size):
            continue
        term = flow.dims(use.ref)[use.dim]
        how, one, other = use.size.made
        if how == "div":
            divisor = _expressed(flow, other)
            given = _expressed(flow, one)
            term = product([divisor, resolve(term)]) if divisor is not None else term
        else:
            given = _expressed(flow, use.size)
        if given is None or given.size != term.size or _same_size(given, term):
            continue
        unify(*_without_common(given, term), _REASON)


def _without_common(one: Term, other: Term) -> tuple[Term, Term]:
    """Remove the common axes of two products of equal size; the rests have equal size too."""
    left, right = (
        list(t.parts) if isinstance(t, Prod) else [t] for t in map(resolve, (one, other))
    )
    for part in list(left):
        if isinstance(part, Atom) and part in right:
            left.remove(part)
            right.remove(part)
    return product(left), product(right)


def _from_a_dimension(size: object) -> bool:
    """Whether a size was computed from a dimension of a tensor."""
    if type(size) is not Size:
        return False
    how, one, other = size.made
    if how in ("of", "dim"):
        return bool(how == "dim")
    return _from_a_dimension(one) or _from_a_dimension(other)


def _expressed(flow: DimFlow, size: Size | int) -> Term | None:
    """The term of a size, from the dimensions that it was computed from; None if unknown."""
    if type(size) is not Size:
        return Fixed(int(size), "a number in the forward")
    how, one, other = size.made
    if how == "dim":
        tape, ref = one
        if tape() is not flow.tape:  # a number kept from an earlier run
            return None
        return resolve(flow.dims(ref)[other])
    if how == "of":
        known = flow.attribute_dims.get((one, other))
        return resolve(known) if known is not None else None
    parts = [_expressed(flow, one), _expressed(flow, other)] if how in ("mul", "add") else [None]
    known_parts = [part for part in parts if part is not None]
    if len(known_parts) < len(parts):
        return None
    return product(known_parts) if how == "mul" else concat(known_parts)


def _same_size(one: Term, other: Term) -> bool:
    """Whether two dimensions have equal sizes after any edit: the same polynomial in the axes."""
    return _polynomial(resolve(one)) == _polynomial(resolve(other))


def _polynomial(term: Term) -> Counter[tuple[int, ...]]:
    """The size of a resolved term as a polynomial: counts of products of axes, by their ids."""
    if isinstance(term, Fixed):
        return Counter({(): term.size})
    if isinstance(term, Sum):
        return sum((_polynomial(part) for part in term.parts), Counter[tuple[int, ...]]())
    if not isinstance(term, Prod):
        return Counter({(id(term),): 1})
    out = Counter[tuple[int, ...]]({(): 1})
    for part in term.parts:
        factor = _polynomial(part)
        product_of: Counter[tuple[int, ...]] = Counter()
        for mine, often in out.items():
            for theirs, times in factor.items():
                product_of[tuple(sorted((*mine, *theirs)))] += often * times
        out = product_of
    return out
