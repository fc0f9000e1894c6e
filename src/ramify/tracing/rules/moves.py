"""Operations that move entries: views, cuts, joins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ramify.tracing.dims import (
    UNIT,
    Atom,
    Fixed,
    Term,
    concat,
    factor,
    freeze,
    product,
    resolve,
    split,
    unify,
)
from ramify.tracing.propagate import Labels, rule
from ramify.tracing.recorder import Op


def argument(op: Op, index: int, name: str, default: Any) -> Any:
    """An argument by position or name."""
    if len(op.args) > index:
        return op.args[index]
    return op.kwargs.get(name, default)


def axis(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim + rank if dim < 0 else dim


@rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def view(labels: Labels, op: Op) -> None:
    """Row-major regrouping: blocks of dimensions with equal products, refined where cut."""
    source, (result,) = op.args[0], op.results()
    terms, shape = labels.of(source), labels.shape(result)
    if 0 in shape:
        labels.freeze_all(op, [source], "reshapes an empty tensor")
        labels.give(op, [Fixed(n) for n in shape])
        return
    labels.give(op, regroup(labels, op, terms, shape))


def regroup(labels: Labels, op: Op, terms: Sequence[Term], shape: Sequence[int]) -> list[Term]:
    """The terms of a reshape of `terms` to `shape`."""
    out: list[Term] = []
    i = j = 0
    weight = labels.is_weight(op.args[0])  # axes of size 1 in a parameter are there to broadcast
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
            freeze(terms[i], labels.why(op, "drops an axis of one channel"))
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
        out.extend(_divide(labels, op, product([resolve(t) for t in block]), sizes))
    rest = [resolve(term) for term in terms[i:]]  # axes of one channel: the new shape has no place
    if out and rest and not weight:
        out[-1] = product([resolve(out[-1]), *rest])
    else:
        for term in rest:
            freeze(term, labels.why(op, "drops an axis of one channel"))
    return out


def _divide(labels: Labels, op: Op, whole: Term, sizes: Sequence[int]) -> list[Term]:
    out: list[Term] = []
    for position, size in enumerate(sizes[:-1]):
        pair = factor(whole, size, math.prod(sizes[position + 1 :]))
        if pair is None:
            freeze(whole, labels.why(op, f"cuts a block of channels at {tuple(sizes)}"))
            return out + [labels.fixed(op, n) for n in sizes[position:]]
        out.append(pair[0])
        whole = resolve(pair[1])
    return [*out, whole]


@rule("t", "t_")
def transpose2(labels: Labels, op: Op) -> None:
    """Matrix transpose."""
    labels.give(op, labels.of(op.args[0])[::-1])


@rule("transpose", "transpose_", "swapaxes")
def transpose(labels: Labels, op: Op) -> None:
    """Two dimensions change places."""
    terms = list(labels.of(op.args[0]))
    if terms:
        a, b = axis(op.args[1], len(terms)), axis(op.args[2], len(terms))
        terms[a], terms[b] = terms[b], terms[a]
    labels.give(op, terms)


@rule("permute")
def permute(labels: Labels, op: Op) -> None:
    """Dimensions in another order."""
    terms = labels.of(op.args[0])
    labels.give(op, [terms[axis(dim, len(terms))] for dim in op.args[1]])


@rule("unsqueeze", "unsqueeze_")
def unsqueeze(labels: Labels, op: Op) -> None:
    """A new dimension of size 1."""
    terms = list(labels.of(op.args[0]))
    terms.insert(axis(op.args[1], len(terms) + 1), UNIT)
    labels.give(op, terms)


@rule("squeeze", "squeeze_")
def squeeze(labels: Labels, op: Op) -> None:
    """Dimensions of size 1 go; an axis of one channel that goes can never grow."""
    terms = labels.of(op.args[0])
    dims = argument(op, 1, "dim", range(len(terms)))
    chosen = {axis(d, len(terms)) for d in ([dims] if isinstance(dims, int) else dims)}
    gone = {d for d in chosen if terms and terms[d].size == 1}
    for dim in gone:
        freeze(terms[dim], labels.why(op, "squeezes it away"))
    labels.give(op, [term for d, term in enumerate(terms) if d not in gone])


@rule("expand")
def expand(labels: Labels, op: Op) -> None:
    """Size 1 becomes n: a size that may follow an edit (the rehearsal finds out)."""
    terms, (result,) = labels.of(op.args[0]), op.results()
    shape = labels.shape(result)
    new = len(shape) - len(terms)
    out: list[Term] = []
    for position, size in enumerate(shape):
        old = terms[position - new] if position >= new else UNIT
        if old.size == size:
            out.append(old)
        else:
            freeze(old, labels.why(op, f"expands one channel to {size}"))
            out.append(Atom(size) if size > 1 else UNIT)
    labels.give(op, out)


@rule("repeat")
def repeat(labels: Labels, op: Op) -> None:
    """Copies of the whole, one after another: a product with the count outside."""
    terms, counts = labels.of(op.args[0]), op.args[1]
    new = len(counts) - len(terms)
    out: list[Term] = []
    for position, count in enumerate(counts):
        old = resolve(terms[position - new]) if position >= new else UNIT
        times: Term = UNIT if count == 1 else Atom(count)
        out.append(product([times, old]))
    labels.give(op, out)


@rule("as_strided_")
def restride(labels: Labels, op: Op) -> None:
    """A mean over space in another memory format: the same tensor, its axes of size 1 restrided."""
    source = op.args[0]
    made = [o for o in labels.tape.ops[: labels.position] if source in o.results()]
    assert made[-1].name == "aten::mean"
    assert tuple(op.args[1]) == labels.shape(source)
    labels.give(op, labels.of(source))


@rule("view_as_real")
def parts(labels: Labels, op: Op) -> None:
    """Complex numbers become pairs in a new last dimension."""
    labels.give(op, [*labels.of(op.args[0]), labels.fixed(op, 2)])


@rule("view_as_complex")
def pairs(labels: Labels, op: Op) -> None:
    """Pairs in the last dimension become complex numbers."""
    *terms, pair = labels.of(op.args[0])
    freeze(pair, labels.why(op, "takes them as real and imaginary parts"))
    labels.give(op, terms)


@rule("unfold")
def windows(labels: Labels, op: Op) -> None:
    """Windows of one dimension, and a new last dimension of what is in each."""
    terms = list(labels.of(op.args[0]))
    dim = axis(op.args[1], len(terms))
    freeze(terms[dim], labels.why(op, "slides a window over them"))
    shape = labels.shape(op.results()[0])
    terms[dim] = labels.fixed(op, shape[dim])
    labels.give(op, [*terms, labels.fixed(op, shape[-1])])


@rule("slice")
def slice_(labels: Labels, op: Op) -> None:
    """A range of one dimension: the dimension becomes a sum of what is cut."""
    terms = list(labels.of(op.args[0]))
    dim = axis(argument(op, 1, "dim", 0), len(terms))
    step = argument(op, 4, "step", 1)
    size = terms[dim].size
    start, stop, _ = slice(argument(op, 2, "start", None), argument(op, 3, "end", None), 1).indices(
        size
    )
    if (start, stop, step) != (0, size, 1):
        terms[dim] = cut_range(labels, op, terms[dim], start, stop, step)
    labels.give(op, terms)


def cut_range(labels: Labels, op: Op, term: Term, start: int, stop: int, step: int) -> Term:
    """The term of positions start:stop:step."""
    count = len(range(start, stop, step))
    if isinstance(resolve(term), Fixed) or count == 0 or step != 1:
        freeze(term, labels.why(op, "takes some of them"))
        return labels.fixed(op, count)
    labels.sliced.append(term)
    for at in (stop, start):
        if 0 < at < term.size:
            cut = split(term, at)
            if cut is None:
                freeze(term, labels.why(op, "cuts inside a block of channels"))
                return labels.fixed(op, count)
            term = cut[0] if at == stop else cut[1]
    return resolve(term)


@rule("select")
def select(labels: Labels, op: Op) -> None:
    """One position of one dimension."""
    terms = list(labels.of(op.args[0]))
    dim = axis(op.args[1], len(terms))
    freeze(terms[dim], labels.why(op, "picks one of them"))
    labels.give(op, terms[:dim] + terms[dim + 1 :])


@rule("unbind")
def unbind(labels: Labels, op: Op) -> None:
    """Every position of one dimension as its own tensor."""
    terms = list(labels.of(op.args[0]))
    dim = axis(argument(op, 1, "dim", 0), len(terms))
    freeze(terms[dim], labels.why(op, "unpacks them one by one"))
    labels.give(op, *([terms[:dim] + terms[dim + 1 :]] * len(op.results())))


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
def pieces(labels: Labels, op: Op) -> None:
    """Equal pieces (`chunk`) stay equal: their channels are tied. Unequal ones are cut."""
    terms = list(labels.of(op.args[0]))
    dim = axis(argument(op, 2, "dim", 0), len(terms))
    sizes = [labels.shape(ref)[dim] for ref in op.results()]
    parts = divide(labels, op, terms[dim], sizes)
    labels.give(op, *([*terms[:dim], part, *terms[dim + 1 :]] for part in parts))


def divide(labels: Labels, op: Op, term: Term, sizes: Sequence[int]) -> list[Term]:
    """The term cut into consecutive pieces of these sizes."""
    if len(sizes) == 1 or isinstance(resolve(term), Fixed):
        return [term if len(sizes) == 1 else labels.fixed(op, n) for n in sizes]
    if op.name.endswith("split_with_sizes"):  # each piece may follow a width of its own
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [
            cut_range(labels, op, term, end - n, end, 1) for end, n in zip(ends, sizes, strict=True)
        ]
    pair = factor(term, len(sizes), sizes[0]) if len(set(sizes)) == 1 else None
    if pair is not None:
        freeze(pair[0], labels.why(op, f"makes {len(sizes)} equal pieces"))
        return [pair[1]] * len(sizes)
    freeze(term, labels.why(op, f"cuts them into pieces of {tuple(sizes)}"))
    return [labels.fixed(op, n) for n in sizes]


@rule("glu")
def glu(labels: Labels, op: Op) -> None:
    """The first half times the sigmoid of the second: channel i and i + half are tied."""
    terms = list(labels.of(op.args[0]))
    dim = axis(argument(op, 1, "dim", -1), len(terms))
    half = terms[dim].size // 2
    terms[dim] = divide(labels, op, terms[dim], [half, half])[0]
    labels.give(op, terms)


@rule("cat")
def cat(labels: Labels, op: Op) -> None:
    """Side by side: a sum along one dimension, equal along the others."""
    refs = [ref for ref in op.args[0] if labels.shape(ref) != (0,)]
    rank = len(labels.shape(refs[0]))
    dim = axis(argument(op, 1, "dim", 0), rank)
    out = list(labels.of(refs[0]))
    for ref in refs[1:]:
        for position, term in enumerate(labels.of(ref)):
            if position != dim:
                unify(out[position], term, labels.why(op, "joins along another dimension"))
                if isinstance(resolve(term), Fixed):
                    out[position] = term
    out[dim] = concat([resolve(labels.of(ref)[dim]) for ref in refs])
    labels.give(op, out)


@rule("stack")
def stack(labels: Labels, op: Op) -> None:
    """A new dimension that counts the tensors; all others are equal."""
    refs = op.args[0]
    out = list(labels.of(refs[0]))
    for ref in refs[1:]:
        for mine, other in zip(out, labels.of(ref), strict=True):
            unify(mine, other, labels.why(op, "stacks them"))
    out.insert(axis(argument(op, 1, "dim", 0), len(out) + 1), labels.fixed(op, len(refs)))
    labels.give(op, out)


@rule("roll", "flip", "rot90")
def reorder(labels: Labels, op: Op) -> None:
    """Positions change places along some dimensions: those stay."""
    terms = labels.of(op.args[0])
    dims = argument(op, 2, "dims", []) if op.name == "aten::roll" else argument(op, 1, "dims", [])
    for dim in dims or range(len(terms)):
        freeze(terms[axis(dim, len(terms))], labels.why(op, "moves them along the dimension"))
    labels.give(op, terms)


@rule("index_select", "gather", "take_along_dim")
def pick(labels: Labels, op: Op) -> None:
    """Positions of one dimension are looked up by number."""
    source, dim, index = op.args[0], op.args[1], op.args[2]
    terms, (result,) = list(labels.of(source)), op.results()
    dim = axis(dim, len(terms))
    freeze(terms[dim], labels.why(op, "looks them up by number"))
    shape = labels.shape(result)
    if op.name != "aten::index_select":
        for position, other in enumerate(labels.of(index)):
            if position != dim and other.size == terms[position].size:
                unify(terms[position], other, labels.why(op, "looks them up by number"))
    labels.give(
        op,
        [
            term if position != dim and term.size == shape[position] else labels.fixed(op, n)
            for position, (term, n) in enumerate(zip(terms, shape, strict=True))
        ],
    )


@rule("embedding")
def embedding(labels: Labels, op: Op) -> None:
    """Rows of a table by number: the table's columns are channels made."""
    weight, index = op.args[0], op.args[1]
    rows, columns = labels.of(weight)
    freeze(rows, labels.why(op, "looks them up by number"))
    labels.contract(op, (index, [], []), (weight, [], [columns]))
    labels.give(op, [*labels.of(index), columns])


@rule("index_add", "index_add_", "index_copy", "index_copy_")
def put_rows(labels: Labels, op: Op) -> None:
    """Whole rows are written by number along one dimension; along the others they stay equal."""
    target, dim, _, source = op.args[:4]
    terms = labels.of(target)
    dim = axis(dim, len(terms))
    for position, (mine, other) in enumerate(zip(terms, labels.of(source), strict=True)):
        if position != dim:
            unify(mine, other, labels.why(op, "writes them"))
        else:
            for term in (mine, other):
                freeze(term, labels.why(op, "looks them up by number"))
    labels.give(op, terms)


@rule(*"scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_".split())
def scatter(labels: Labels, op: Op) -> None:
    """Entries are written by number along one dimension; full ones among the others pass."""
    refs = op.inputs()
    terms = labels.of(refs[0])
    dim = axis(op.args[1], len(terms))
    for ref in refs[1:]:
        for position, (mine, other) in enumerate(zip(terms, labels.of(ref), strict=True)):
            if position != dim and mine.size == other.size:
                unify(mine, other, labels.why(op, "writes them"))
            else:
                for term in (mine, other):
                    freeze(term, labels.why(op, "looks them up by number"))
    labels.give(op, terms)


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(labels: Labels, op: Op) -> None:
    """Sums, means or maxima of rows of a table: the table's columns are channels made."""
    weight, index = op.args[0], op.args[1]
    rows, columns = labels.of(weight)
    freeze(rows, labels.why(op, "looks them up by number"))
    labels.contract(op, (index, [], []), (weight, [], [columns]))
    result, *others = op.results()
    sizes = [[labels.fixed(op, n) for n in labels.shape(ref)] for ref in others]
    labels.give(op, [labels.fixed(op, labels.shape(result)[0]), columns], *sizes)


@rule("index", "_unsafe_index")
def index(labels: Labels, op: Op) -> None:
    """Advanced indexing: the indexed dimensions stay, the others pass."""
    source, indices = op.args[0], list(op.args[1])
    terms, (result,) = labels.of(source), op.results()
    masks = (torch.bool, torch.uint8)
    masked = [d for d, i in enumerate(indices) if i and labels.tape.dtypes[i.index] in masks]
    if masked:
        rank = len(labels.shape(indices[masked[0]]))
        alone = sum(i is not None for i in indices) == 1
        first, last = (masked[0], masked[0] + rank) if alone else (0, len(terms))
        for term in terms[first:last]:
            freeze(term, labels.why(op, "looks them up with a mask"))
        sizes = labels.shape(result)
        chosen = [labels.fixed(op, n) for n in (sizes[first : first + 1] if alone else sizes)]
        labels.give(op, [*terms[:first], *chosen, *terms[last:]])
        return
    indices += [None] * (len(terms) - len(indices))
    used = [d for d, i in enumerate(indices) if i is not None]
    for dim in used:
        freeze(terms[dim], labels.why(op, "looks them up by number"))
    rank = max(len(labels.shape(indices[d])) for d in used)
    free = [d for d in range(len(terms)) if d not in used]
    together = used == list(range(used[0], used[-1] + 1))
    front = [d for d in free if together and d < used[0]]
    shape = labels.shape(result)
    looked: list[Term] = [labels.fixed(op, n) for n in shape[len(front) : len(front) + rank]]
    back = [terms[d] for d in free if d not in front]
    labels.give(op, [*(terms[d] for d in front), *looked, *back])


@rule("index_put", "index_put_")
def put_by_number(labels: Labels, op: Op) -> None:
    """Written by number or mask: dimensions behind those that are looked up pass."""
    target, indices, values = op.args[:3]
    terms, own = labels.of(target), labels.of(values)
    masks = (torch.bool, torch.uint8)
    covered: list[int] = []
    at = 0
    for each in indices:
        masked = each is not None and labels.tape.dtypes[each.index] in masks
        rank = len(labels.shape(each)) if masked else 1
        covered += range(at, at + rank) if each is not None else ()
        at += rank
    together = covered == list(range(covered[0], covered[-1] + 1))
    passing = terms[covered[-1] + 1 :] if together else []
    for term in terms[: len(terms) - len(passing)]:
        freeze(term, labels.why(op, "looks them up by number"))
    count = min(len(passing), len(own))
    for term in own[: len(own) - count]:
        freeze(term, labels.why(op, "looks them up by number"))
    for mine, other in zip(passing[len(passing) - count :], own[len(own) - count :], strict=True):
        if mine.size == other.size:
            unify(mine, other, labels.why(op, "writes them"))
        else:
            freeze(other, labels.why(op, f"broadcasts one channel against {mine.size}"))
    labels.give(op, terms)
