"""Operations that move elements: views, cuts, joins."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ramify.tracing.dims import (
    UNIT,
    Atom,
    Fixed,
    Term,
    concat,
    factor,
    product,
    resolve,
    split,
)
from ramify.tracing.rules.registry import aten_rule
from ramify.tracing.traced_op import TracedOp


def axis(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim + rank if dim < 0 else dim


@aten_rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def view(op: TracedOp) -> None:
    """Row-major regrouping: blocks of dimensions with equal products, refined if cut."""
    source, (result,) = op.args[0], op.results()
    terms, shape = op.dims(source), op.shape(result)
    if 0 in shape:
        op.freeze_tensors([source], "reshapes an empty tensor")
        op.give([Fixed(n) for n in shape])
        return
    op.give(regroup(op, terms, shape))


def regroup(op: TracedOp, terms: Sequence[Term], shape: Sequence[int]) -> list[Term]:
    """The terms of a reshape of `terms` to `shape`."""
    # Two pointers, one in each shape: equal sizes pass; otherwise a block is collected on both
    # sides until the products are equal, and then divided again.
    out: list[Term] = []
    i = j = 0
    weight = op.is_weight(op.args[0])  # axes of size 1 in a parameter serve broadcasting
    while j < len(shape):
        if i < len(terms) and terms[i].size == shape[j]:
            out.append(terms[i])
            i, j = i + 1, j + 1
            continue
        if shape[j] == 1 and (i == len(terms) or terms[i].size != 1):
            out.append(UNIT)
            j += 1
            continue
        if weight and terms[i].size == 1:
            op.freeze(terms[i], "drops an axis of one channel")
            i += 1
            continue
        block, sizes = [terms[i]], [shape[j]]
        i, j = i + 1, j + 1
        while math.prod(t.size for t in block) != math.prod(sizes):
            if math.prod(t.size for t in block) < math.prod(sizes):
                block.append(terms[i])
                i += 1
            else:
                sizes.append(shape[j])
                j += 1
        out.extend(_divide(op, product([resolve(t) for t in block]), sizes))
    rest = [resolve(term) for term in terms[i:]]  # axes of one channel that the new shape drops
    if out and rest and not weight:
        out[-1] = product([resolve(out[-1]), *rest])
    else:
        for term in rest:
            op.freeze(term, "drops an axis of one channel")
    return out


def _divide(op: TracedOp, whole: Term, sizes: Sequence[int]) -> list[Term]:
    """A block of dimensions as a product of these sizes; frozen if that is impossible."""
    out: list[Term] = []
    for position, size in enumerate(sizes[:-1]):
        pair = factor(whole, size, math.prod(sizes[position + 1 :]))
        if pair is None:
            op.freeze(whole, f"cuts a block of channels at {tuple(sizes)}")
            return out + [op.fixed(n) for n in sizes[position:]]
        out.append(pair[0])
        whole = resolve(pair[1])
    return [*out, whole]


@aten_rule("t", "t_")
def transpose2(op: TracedOp) -> None:
    """Matrix transpose."""
    op.give(op.dims(op.args[0])[::-1])


@aten_rule("transpose", "transpose_", "swapaxes")
def transpose(op: TracedOp) -> None:
    """Two dimensions are swapped."""
    terms = list(op.dims(op.args[0]))
    if terms:
        a, b = axis(op.args[1], len(terms)), axis(op.args[2], len(terms))
        terms[a], terms[b] = terms[b], terms[a]
    op.give(terms)


@aten_rule("permute")
def permute(op: TracedOp) -> None:
    """Dimensions in another order."""
    terms = op.dims(op.args[0])
    op.give([terms[axis(dim, len(terms))] for dim in op.args[1]])


@aten_rule("unsqueeze", "unsqueeze_")
def unsqueeze(op: TracedOp) -> None:
    """A new dimension of size 1."""
    terms = list(op.dims(op.args[0]))
    terms.insert(axis(op.args[1], len(terms) + 1), UNIT)
    op.give(terms)


@aten_rule("squeeze", "squeeze_")
def squeeze(op: TracedOp) -> None:
    """Dimensions of size 1 are removed; an axis of one channel among them can never grow."""
    terms = op.dims(op.args[0])
    dims = op.argument(1, "dim", range(len(terms)))
    chosen = {axis(d, len(terms)) for d in ([dims] if isinstance(dims, int) else dims)}
    gone = {d for d in chosen if terms and terms[d].size == 1}
    for dim in gone:
        op.freeze(terms[dim], "squeezes it away")
    op.give([term for d, term in enumerate(terms) if d not in gone])


@aten_rule("expand")
def expand(op: TracedOp) -> None:
    """Size 1 becomes n, which may follow an edit (the trial growth tests this)."""
    terms, (result,) = op.dims(op.args[0]), op.results()
    shape = op.shape(result)
    new = len(shape) - len(terms)
    out: list[Term] = []
    for position, size in enumerate(shape):
        old = terms[position - new] if position >= new else UNIT
        if old.size == size:
            out.append(old)
        else:
            op.freeze(old, f"expands one channel to {size}")
            out.append(Atom(size) if size > 1 else UNIT)
    op.give(out)


@aten_rule("repeat")
def repeat(op: TracedOp) -> None:
    """Consecutive copies of the whole: a product with the count as outer factor."""
    terms, counts = op.dims(op.args[0]), op.args[1]
    new = len(counts) - len(terms)
    out: list[Term] = []
    for position, count in enumerate(counts):
        old = resolve(terms[position - new]) if position >= new else UNIT
        times: Term = UNIT if count == 1 else Atom(count)
        out.append(product([times, old]))
    op.give(out)


@aten_rule("as_strided_")
def restride(op: TracedOp) -> None:
    """A mean over space in another memory format: the same tensor, its axes of size 1 restrided."""
    source = op.args[0]
    made = [o for o in op.tape.ops[: op.position] if source in o.results()]
    assert made[-1].name == "aten::mean"
    assert tuple(op.args[1]) == op.shape(source)
    op.give(op.dims(source))


@aten_rule("view_as_real")
def parts(op: TracedOp) -> None:
    """Complex numbers become pairs in a new last dimension."""
    op.give([*op.dims(op.args[0]), op.fixed(2)])


@aten_rule("view_as_complex")
def pairs(op: TracedOp) -> None:
    """Pairs in the last dimension become complex numbers."""
    *terms, pair = op.dims(op.args[0])
    op.freeze(pair, "takes them as real and imaginary parts")
    op.give(terms)


@aten_rule("unfold")
def windows(op: TracedOp) -> None:
    """Windows of one dimension, with a new last dimension for the elements of each."""
    terms = list(op.dims(op.args[0]))
    dim = axis(op.args[1], len(terms))
    op.freeze(terms[dim], "slides a window over them")
    shape = op.shape(op.results()[0])
    terms[dim] = op.fixed(shape[dim])
    op.give([*terms, op.fixed(shape[-1])])


@aten_rule("slice")
def slice_(op: TracedOp) -> None:
    """A range of one dimension, which becomes a sum of the pieces."""
    terms = list(op.dims(op.args[0]))
    dim = axis(op.argument(1, "dim", 0), len(terms))
    step = op.argument(4, "step", 1)
    size = terms[dim].size
    given = slice(op.argument(2, "start", None), op.argument(3, "end", None), 1)
    start, stop, _ = given.indices(size)
    if (start, stop, step) != (0, size, 1):
        terms[dim] = cut_range(op, terms[dim], start, stop, step)
    op.give(terms)


def cut_range(op: TracedOp, term: Term, start: int, stop: int, step: int) -> Term:
    """The term of positions start:stop:step."""
    count = len(range(start, stop, step))
    dealt = step > 1 and start < step and stop == term.size and term.size % step == 0
    pair = factor(term, term.size // step, step) if dealt else None
    if pair is not None:  # every second one: channels i of both are adjacent
        op.freeze(pair[1], f"deals them out {step} at a time")
        return resolve(pair[0])
    if isinstance(resolve(term), Fixed) or count == 0 or step != 1:
        op.freeze(term, "takes some of them")
        return op.fixed(count)
    # The end first, so that the start still counts from the same origin.
    op.note_slice(term)
    for at in (stop, start):
        if 0 < at < term.size:
            cut = split(term, at)
            if cut is None:
                op.freeze(term, "cuts inside a block of channels")
                return op.fixed(count)
            term = cut[0] if at == stop else cut[1]
    return resolve(term)


@aten_rule("select")
def select(op: TracedOp) -> None:
    """One position of one dimension."""
    terms = list(op.dims(op.args[0]))
    dim = axis(op.args[1], len(terms))
    if not op.looks_up(op.args[0], terms[dim], op.number_read(op.args[2])):
        op.freeze(terms[dim], "picks one of them")
    op.give(terms[:dim] + terms[dim + 1 :])


@aten_rule("unbind")
def unbind(op: TracedOp) -> None:
    """Every position of one dimension as its own tensor."""
    terms = list(op.dims(op.args[0]))
    dim = axis(op.argument(1, "dim", 0), len(terms))
    op.freeze(terms[dim], "unpacks them one by one")
    op.give(*([terms[:dim] + terms[dim + 1 :]] * len(op.results())))


@aten_rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
def pieces(op: TracedOp) -> None:
    """Equal pieces (`chunk`) stay equal: their channels are tied. Unequal ones are cut."""
    terms = list(op.dims(op.args[0]))
    dim = axis(op.argument(2, "dim", 0), len(terms))
    sizes = [op.shape(ref)[dim] for ref in op.results()]
    parts = divide(op, terms[dim], sizes)
    op.give(*([*terms[:dim], part, *terms[dim + 1 :]] for part in parts))


def divide(op: TracedOp, term: Term, sizes: Sequence[int]) -> list[Term]:
    """The term cut into consecutive pieces of these sizes."""
    if len(sizes) == 1 or isinstance(resolve(term), Fixed):
        return [term if len(sizes) == 1 else op.fixed(n) for n in sizes]
    if op.name.endswith("split_with_sizes"):  # each piece may follow a different width
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [cut_range(op, term, end - n, end, 1) for end, n in zip(ends, sizes, strict=True)]
    pair = factor(term, len(sizes), sizes[0]) if len(set(sizes)) == 1 else None
    if pair is not None:
        op.freeze(pair[0], f"makes {len(sizes)} equal pieces")
        return [pair[1]] * len(sizes)
    op.freeze(term, f"cuts them into pieces of {tuple(sizes)}")
    return [op.fixed(n) for n in sizes]


@aten_rule("glu")
def glu(op: TracedOp) -> None:
    """The first half times the sigmoid of the second: channel i and i + half are tied."""
    terms = list(op.dims(op.args[0]))
    dim = axis(op.argument(1, "dim", -1), len(terms))
    half = terms[dim].size // 2
    terms[dim] = divide(op, terms[dim], [half, half])[0]
    op.give(terms)


@aten_rule("cat")
def cat(op: TracedOp) -> None:
    """Concatenation: a sum along one dimension, the others are tied."""
    refs = [ref for ref in op.args[0] if op.shape(ref) != (0,)]
    rank = len(op.shape(refs[0]))
    dim = axis(op.argument(1, "dim", 0), rank)
    out = list(op.dims(refs[0]))
    for ref in refs[1:]:
        for position, term in enumerate(op.dims(ref)):
            if position != dim:
                op.tie(out[position], term, "joins along another dimension")
                if isinstance(resolve(term), Fixed):
                    out[position] = term
    out[dim] = concat([resolve(op.dims(ref)[dim]) for ref in refs])
    op.give(out)


@aten_rule("stack")
def stack(op: TracedOp) -> None:
    """A new dimension that counts the tensors; all others are tied."""
    refs = op.args[0]
    out = list(op.dims(refs[0]))
    for ref in refs[1:]:
        for mine, other in zip(out, op.dims(ref), strict=True):
            op.tie(mine, other, "stacks them")
    out.insert(axis(op.argument(1, "dim", 0), len(out) + 1), op.fixed(len(refs)))
    op.give(out)


@aten_rule("roll", "flip", "rot90")
def reorder(op: TracedOp) -> None:
    """Positions are reordered along some dimensions, which are frozen."""
    terms = op.dims(op.args[0])
    dims = op.argument(2, "dims", []) if op.name == "aten::roll" else op.argument(1, "dims", [])
    for dim in dims or range(len(terms)):
        op.freeze(terms[axis(dim, len(terms))], "moves them along the dimension")
    op.give(terms)
