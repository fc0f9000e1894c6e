"""What it says of dimensions that a forward computes one size from others.

Where `qkv.reshape(n, l, 3, heads, c // heads)` takes `c` from `x.shape[-1]`, the channels of `x`
and those of all heads together are equally many after every edit, or the forward fails. So they go
together: removing a dimension of every head removes as many channels of the stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ramify.tracing.dims import Atom, Fixed, Prod, Sum, Term, concat, product, resolve, unify
from ramify.tracing.flow import DimFlow
from ramify.tracing.sizes import Size, Use

_REASON = "the forward computes the size of one from the other's"


def relate(flow: DimFlow, uses: Sequence[Use]) -> None:
    """Tie the dimensions whose sizes the forward made of sizes of other dimensions.

    Args:
        flow: the dimensions of the latest tape.
        uses: the sizes that the forward gave to functions.
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
    """Two products of one size without the axes that stand in both: the rest has one size too."""
    left, right = (
        list(t.parts) if isinstance(t, Prod) else [t] for t in map(resolve, (one, other))
    )
    for part in list(left):
        if isinstance(part, Atom) and part in right:
            left.remove(part)
            right.remove(part)
    return product(left), product(right)


def _from_a_dimension(size: object) -> bool:
    """Whether a dimension of a tensor went into a size."""
    if type(size) is not Size:
        return False
    how, one, other = size.made
    if how in ("of", "dim"):
        return bool(how == "dim")
    return _from_a_dimension(one) or _from_a_dimension(other)


def _expressed(flow: DimFlow, size: Size | int) -> Term | None:
    """A dimension of this size, made of those that the size was computed from; None if unknown."""
    if type(size) is not Size:
        return Fixed(int(size), "a number in the forward")
    how, one, other = size.made
    if how == "dim":
        tape, ref = one
        if tape() is not flow.tape:  # a number that somebody kept from an earlier run
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
    """Whether two dimensions have one size whatever an edit does: the same polynomial in axes."""
    return _polynomial(resolve(one)) == _polynomial(resolve(other))


def _polynomial(term: Term) -> Counter[tuple[int, ...]]:
    """The size of a resolved term: products of axes, each by its sorted numbers, and how often."""
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
