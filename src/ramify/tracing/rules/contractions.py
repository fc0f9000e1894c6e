"""Operations that sum over channels: products of matrices, convolutions, attention."""

from __future__ import annotations

from collections.abc import Sequence

from ramify.tracing.dims import (
    UNIT,
    Fixed,
    Term,
    factor,
    product,
    resolve,
)
from ramify.tracing.recorder import Ref
from ramify.tracing.rules.registry import aten_rule
from ramify.tracing.traced_op import TracedOp


@aten_rule("mm", "bmm", "mv", "dot", "vdot", "matmul")
def matmul(op: TracedOp) -> None:
    """`(..., n, k) @ (..., k, m)` with equal batch dimensions; vectors as in torch."""
    a, b = op.args[0], op.args[1]
    op.give(multiply(op, a, b))


def multiply(op: TracedOp, a: Ref, b: Ref, bias: Ref | None = None) -> list[Term]:
    """Record the reads of a matrix product and return the dimensions of its result."""
    left, right = op.dims(a), op.dims(b)
    batch = list(left[:-2])
    for mine, other in zip(batch, right[:-2], strict=True):
        op.tie(mine, other, "multiplies matrix by matrix")
    rows = left[-2:-1] if len(left) > 1 else []
    summed = right[-2] if len(right) > 1 else right[-1]
    columns = right[-1:] if len(right) > 1 else []
    op.contract((a, [left[-1]], rows), (b, [summed], columns), bias)
    return [*batch, *rows, *columns]


@aten_rule("addmm", "baddbmm", "addmv", "_addmm_activation")
def addmm(op: TracedOp) -> None:
    """`bias + a @ b`."""
    bias, a, b = op.args[:3]
    terms = multiply(op, a, b, bias)
    _add_bias(op, terms, bias)
    op.give(terms)


def _add_bias(op: TracedOp, terms: Sequence[Term], bias: Ref) -> None:
    known = op.dims(bias)
    for term, own in zip(terms[len(terms) - len(known) :], known, strict=True):
        if own.size == term.size:
            op.tie(term, own, "adds the bias")
        else:
            op.freeze(own, "broadcasts one bias against many channels")


@aten_rule("_grouped_mm")
def experts(op: TracedOp) -> None:
    """`(rows, k) @ (experts, k, m)`: each row is multiplied by the weight of its expert."""
    a, b = op.args[:2]
    (rows, left), (number, right, made) = op.dims(a), op.dims(b)
    ends = op.argument(2, "offs", None)
    counted = resolve(op.dims(ends)[0]) if ends is not None else None
    if not op.looks_up(b, number, None if isinstance(counted, Fixed) else counted):
        op.freeze(number, "gives each of them its own rows")
    op.in_blocks(left, made)
    op.contract((a, [left], [rows]), (b, [right], [made]))
    op.give([rows, made])


@aten_rule("linear", "mkldnn_linear", "_mkl_linear")
def linear(op: TracedOp) -> None:
    """`x @ weight.T + bias`, if torch does not decompose it."""
    x, weight = op.args[:2]
    bias = op.argument(2, "bias", None)
    made, read = op.dims(weight)
    before = op.dims(x)
    op.contract((x, [before[-1]], before[:-1]), (weight, [read], [made]), bias)
    if bias is not None:
        op.tie(made, op.dims(bias)[0], "adds the bias")
    op.give([*before[:-1], made])


@aten_rule("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution")
def convolution(op: TracedOp) -> None:
    """Convolution, grouped and transposed: groups carry, channels within a group are summed."""
    x, weight, bias = op.args[:3]
    transposed, groups = bool(op.args[6]), int(op.args[8])
    channels = op.dims(x)[1]
    first, second, *kernel = op.dims(weight)
    what = f"has {groups} groups"
    for term in [*kernel, *op.dims(x)[2:]]:
        op.freeze(term, "slides its kernel over space")
    spread = _factor(op, channels, groups, what)
    if transposed:
        own = _factor(op, first, groups, what)
        read, made = own[1], second
    else:
        own = _factor(op, first, groups, what)
        read, made = second, own[1]
    op.tie(spread[0], own[0], what)
    out = product([resolve(own[0]), resolve(made)])
    if resolve(spread[1]).size == 1 and groups > 1:  # depthwise: channels are carried, not summed
        if not isinstance(resolve(read), Fixed):
            op.freeze(read, "keeps one channel in each group")
        op.contract((x, [], []), (weight, [], [made]), bias)
    else:
        op.contract((x, [spread[1]], []), (weight, [read], [made]), bias)
    if bias is not None:
        op.tie(out, op.dims(bias)[0], "adds the bias")
    for attribute, term in (("in_channels", channels), ("out_channels", out), ("groups", own[0])):
        op.holds_size(attribute, term)
    space = op.shape(op.results()[0])[2:]
    op.give([op.dims(x)[0], out, *(op.fixed(n) for n in space)])


def _factor(op: TracedOp, term: Term, groups: int, what: str) -> tuple[Term, Term]:
    if groups == 1:  # the term as it is: a slot is known by identity
        return UNIT, term
    pair = factor(term, groups, term.size // groups)
    if pair is None:
        op.freeze(term, what)
        return op.fixed(groups, what), op.fixed(term.size // groups, what)
    return pair


@aten_rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
)
def attention(op: TracedOp) -> None:
    """softmax(q kᵀ · scale) v: q and k share the head dimension, that of v passes through."""
    q, k, v = op.args[:3]
    what = "multiplies queries by keys"
    left, middle, right = op.dims(q), op.dims(k), op.dims(v)
    op.tie(middle[-2], right[-2], what)
    op.freeze(middle[-2], "takes the softmax over them")
    op.contract((q, [left[-1]], []), (k, [middle[-1]], []))
    for query, key, value in zip(left[:-2], middle[:-2], right[:-2], strict=True):
        op.tie(key, value, what)
        if query.size == key.size:
            op.tie(query, key, what)
        else:  # grouped queries: consecutive query heads share one key head
            op.tie(_factor(op, query, key.size, what)[0], key, what)
    out = [*left[:-1], right[-1]]
    given = op.named()
    mask = given.get("attn_mask", given.get("attn_bias"))
    added = op.dims(mask)[:-1] if mask is not None else []
    for term, own in zip(reversed(left[:-1]), reversed(added), strict=False):
        if own.size == term.size:  # a bias table has an entry for each head
            op.tie(term, own, "adds them to the scores")
    others = op.results()[1:]
    op.give(out, *([op.fixed(n) for n in op.shape(r)] for r in others))


@aten_rule("_trilinear")
def bilinear(op: TracedOp) -> None:
    """`sum_ij x_i W_oij y_j`, as in `nn.Bilinear`: each factor is read by the weight."""
    x, weight, y = op.args[:3]
    assert [list(dims) for dims in op.args[3:7]] == [[1, 3], [0], [1, 2], [2, 3]]
    (rows, first), (same_rows, second) = op.dims(x), op.dims(y)
    made, left, right = op.dims(weight)
    op.tie(rows, same_rows, "multiplies row by row")
    for read, column in ((first, left), (second, right)):
        op.tie(read, column, "sums over them")
        op.forbid_split(read, "multiplies two activations by one weight")
    op.contract((x, [], []), (weight, [], [made]))
    for attribute, term in (("in1_features", left), ("in2_features", right)):
        op.holds_size(attribute, term)
    op.holds_size("out_features", made)
    op.give([rows, made])


@aten_rule("_cdist_forward", "_euclidean_dist")
def distances(op: TracedOp) -> None:
    """The distance of each row of one tensor to each row of another, over the last dimension."""
    left, right = op.dims(op.args[0]), op.dims(op.args[1])
    op.tie(left[-1], right[-1], "takes the distance over them")
    op.forbid_split(left[-1], "takes the distance over them")
    batch, fewer = sorted((left[:-2], right[:-2]), key=len, reverse=True)
    for mine, other in zip(reversed(batch), reversed(fewer), strict=False):
        op.tie(mine, other, "takes the distances of each pair of tables")
    op.give([*batch, left[-2], right[-2]])


@aten_rule("_weight_norm_interface", "_weight_norm")
def weight_norm(op: TracedOp) -> None:
    """`g · v / ‖v‖` over all dimensions of v but one."""
    v, g = op.args[:2]
    op.broadcast([v, g])
    keep = op.argument(2, "dim", 0)
    terms = op.dims(v)
    for dim, term in enumerate(terms):
        if dim != keep:
            op.forbid_split(term, "normalises the weight over them")
            op.mark_inexact(term, "normalises the weight over them")
    norm = [term if dim == keep else UNIT for dim, term in enumerate(terms)]
    op.give(terms, norm)
