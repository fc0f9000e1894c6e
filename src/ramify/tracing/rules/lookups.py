"""Operations that read or write elements by index or mask: tables, gathers, scatters."""

from __future__ import annotations

import torch

from ramify.tracing.dims import Term
from ramify.tracing.rules.moves import axis
from ramify.tracing.rules.registry import aten_rule
from ramify.tracing.traced_op import TracedOp

_MASKS = (torch.bool, torch.uint8)


@aten_rule("index_select", "gather", "take_along_dim")
def pick(op: TracedOp) -> None:
    """Positions of one dimension are selected by index."""
    source, dim, index = op.args[0], op.args[1], op.args[2]
    terms, (result,) = list(op.dims(source)), op.results()
    dim = axis(dim, len(terms))
    if not op.looks_up(source, terms[dim], index):
        op.freeze(terms[dim], "looks them up by number")
    shape = op.shape(result)
    if op.name != "aten::index_select":
        for position, other in enumerate(op.dims(index)):
            if position != dim and other.size == terms[position].size:
                op.tie(terms[position], other, "looks them up by number")
    op.give(
        [
            term if position != dim and term.size == shape[position] else op.fixed(n)
            for position, (term, n) in enumerate(zip(terms, shape, strict=True))
        ],
    )


@aten_rule("embedding")
def embedding(op: TracedOp) -> None:
    """Rows of a table are selected by index; the table's columns produce channels."""
    weight, index = op.args[0], op.args[1]
    rows, columns = op.dims(weight)
    op.freeze(rows, "looks them up by number")
    op.contract((index, [], []), (weight, [], [columns]))
    op.give([*op.dims(index), columns])


@aten_rule("index_add", "index_add_", "index_copy", "index_copy_")
def put_rows(op: TracedOp) -> None:
    """Whole rows are written by index along one dimension; the other dimensions are tied."""
    target, dim, _, source = op.args[:4]
    terms = op.dims(target)
    dim = axis(dim, len(terms))
    for position, (mine, other) in enumerate(zip(terms, op.dims(source), strict=True)):
        if position != dim:
            op.tie(mine, other, "writes them")
        else:
            for term in (mine, other):
                op.freeze(term, "looks them up by number")
    op.give(terms)


@aten_rule(*"scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_".split())
def scatter(op: TracedOp) -> None:
    """Elements are written by index along one dimension; other dimensions of full size pass."""
    refs = op.inputs()
    terms = op.dims(refs[0])
    dim = axis(op.args[1], len(terms))
    counted = op.looks_up(refs[0], terms[dim], refs[1])
    for ref in refs[1:]:
        for position, (mine, other) in enumerate(zip(terms, op.dims(ref), strict=True)):
            if position != dim and mine.size == other.size:
                op.tie(mine, other, "writes them")
            elif counted and position == dim:
                op.freeze(other, "looks them up by number")
            else:
                for term in (mine, other):
                    op.freeze(term, "looks them up by number")
    op.give(terms)


@aten_rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(op: TracedOp) -> None:
    """Sums, means or maxima of rows of a table; the table's columns produce channels."""
    weight, index = op.args[0], op.args[1]
    rows, columns = op.dims(weight)
    op.freeze(rows, "looks them up by number")
    op.contract((index, [], []), (weight, [], [columns]))
    result, *others = op.results()
    sizes = [[op.fixed(n) for n in op.shape(ref)] for ref in others]
    op.give([op.fixed(op.shape(result)[0]), columns], *sizes)


@aten_rule("nonzero")
def nonzero_positions(op: TracedOp) -> None:
    """The indices of nonzero elements, one column for each dimension."""
    terms, (result,) = op.dims(op.args[0]), op.results()
    op.give([op.fixed(n) for n in op.shape(result)])
    if len(terms) == 1:
        op.number(result, terms[0])
    else:
        op.freeze(terms, "looks for entries among them")


@aten_rule("index", "_unsafe_index")
def index(op: TracedOp) -> None:
    """Advanced indexing: indexed dimensions are frozen unless they are experts; others pass."""
    source, indices = op.args[0], list(op.args[1])
    terms, (result,) = op.dims(source), op.results()
    masked = [d for d, i in enumerate(indices) if i and op.dtype(i) in _MASKS]
    if masked:
        # A single mask keeps the dimensions around it; with several, none are known.
        rank = len(op.shape(indices[masked[0]]))
        alone = sum(i is not None for i in indices) == 1
        first, last = (masked[0], masked[0] + rank) if alone else (0, len(terms))
        for term in terms[first:last]:
            op.freeze(term, "looks them up with a mask")
        sizes = op.shape(result)
        chosen = [op.fixed(n) for n in (sizes[first : first + 1] if alone else sizes)]
        op.give([*terms[:first], *chosen, *terms[last:]])
        return
    # By index: the selected positions form one block of dimensions. It replaces the indexed ones
    # if they are adjacent, and is in front otherwise.
    indices += [None] * (len(terms) - len(indices))
    used = [d for d, i in enumerate(indices) if i is not None]
    for dim in used:
        if not op.looks_up(source, terms[dim], indices[dim]):
            op.freeze(terms[dim], "looks them up by number")
    rank = max(len(op.shape(indices[d])) for d in used)
    free = [d for d in range(len(terms)) if d not in used]
    together = used == list(range(used[0], used[-1] + 1))
    front = [d for d in free if together and d < used[0]]
    shape = op.shape(result)
    looked: list[Term] = [op.fixed(n) for n in shape[len(front) : len(front) + rank]]
    back = [terms[d] for d in free if d not in front]
    op.give([*(terms[d] for d in front), *looked, *back])


@aten_rule("index_put", "index_put_")
def put_by_number(op: TracedOp) -> None:
    """Elements are written by index or mask; dimensions after the indexed ones pass."""
    target, indices, values = op.args[:3]
    terms, own = op.dims(target), op.dims(values)
    # The dimensions of the target that indices and masks address.
    covered: list[int] = []
    at = 0
    for each in indices:
        masked = each is not None and op.dtype(each) in _MASKS
        rank = len(op.shape(each)) if masked else 1
        covered += range(at, at + rank) if each is not None else ()
        at += rank
    together = covered == list(range(covered[0], covered[-1] + 1))
    passing = terms[covered[-1] + 1 :] if together else []
    for term in terms[: len(terms) - len(passing)]:
        op.freeze(term, "looks them up by number")
    # The last dimensions of the values are those of the target.
    count = min(len(passing), len(own))
    for term in own[: len(own) - count]:
        op.freeze(term, "looks them up by number")
    for mine, other in zip(passing[len(passing) - count :], own[len(own) - count :], strict=True):
        if mine.size == other.size:
            op.tie(mine, other, "writes them")
        else:
            op.freeze(other, f"broadcasts one channel against {mine.size}")
    op.give(terms)
