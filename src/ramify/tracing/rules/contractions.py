"""Operations that sum over channels: products of matrices, convolutions, attention."""

from __future__ import annotations

from collections.abc import Sequence

from ramify.tracing.dims import (
    UNIT,
    Fixed,
    Term,
    factor,
    forbid_split,
    freeze,
    mark_inexact,
    product,
    resolve,
    unify,
)
from ramify.tracing.propagate import Labels, broadcast, rule
from ramify.tracing.recorder import Op, Ref
from ramify.tracing.rules.moves import argument


@rule("mm", "bmm", "mv", "dot", "vdot", "matmul")
def matmul(labels: Labels, op: Op) -> None:
    """`(..., n, k) @ (..., k, m)`, batch dimensions equal; vectors as torch takes them."""
    a, b = op.args[0], op.args[1]
    labels.give(op, multiply(labels, op, a, b))


def multiply(labels: Labels, op: Op, a: Ref, b: Ref, bias: Ref | None = None) -> list[Term]:
    """Label a matrix product and note who reads what; returns the result's terms."""
    left, right = labels.of(a), labels.of(b)
    batch = list(left[:-2])
    for mine, other in zip(batch, right[:-2], strict=True):
        unify(mine, other, labels.why(op, "multiplies matrix by matrix"))
    rows = left[-2:-1] if len(left) > 1 else []
    summed = right[-2] if len(right) > 1 else right[-1]
    columns = right[-1:] if len(right) > 1 else []
    labels.contract(op, (a, [left[-1]], rows), (b, [summed], columns), bias)
    return [*batch, *rows, *columns]


@rule("addmm", "baddbmm", "addmv", "_addmm_activation")
def addmm(labels: Labels, op: Op) -> None:
    """`bias + a @ b`."""
    bias, a, b = op.args[:3]
    terms = multiply(labels, op, a, b, bias)
    _add_bias(labels, op, terms, bias)
    labels.give(op, terms)


def _add_bias(labels: Labels, op: Op, terms: Sequence[Term], bias: Ref) -> None:
    known = labels.of(bias)
    for term, own in zip(terms[len(terms) - len(known) :], known, strict=True):
        if own.size == term.size:
            unify(term, own, labels.why(op, "adds the bias"))
        else:
            freeze(own, labels.why(op, "broadcasts one bias against many channels"))


@rule("_grouped_mm")
def experts(labels: Labels, op: Op) -> None:
    """`(rows, k) @ (experts, k, m)`, each row by the expert that it is sorted to."""
    a, b = op.args[:2]
    (rows, left), (number, right, made) = labels.of(a), labels.of(b)
    freeze(number, labels.why(op, "gives each of them its own rows"))
    labels.contract(op, (a, [left], [rows]), (b, [right], [made]))
    labels.give(op, [rows, made])


@rule("linear", "mkldnn_linear", "_mkl_linear")
def linear(labels: Labels, op: Op) -> None:
    """`x @ weight.T + bias`, when the operation comes whole."""
    x, weight = op.args[:2]
    bias = argument(op, 2, "bias", None)
    made, read = labels.of(weight)
    before = labels.of(x)
    labels.contract(op, (x, [before[-1]], before[:-1]), (weight, [read], [made]), bias)
    if bias is not None:
        unify(made, labels.of(bias)[0], labels.why(op, "adds the bias"))
    labels.give(op, [*before[:-1], made])


@rule("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution")
def convolution(labels: Labels, op: Op) -> None:
    """Convolution, grouped and transposed: groups carry, channels within a group are summed."""
    x, weight, bias = op.args[:3]
    transposed, groups = bool(op.args[6]), int(op.args[8])
    channels = labels.of(x)[1]
    first, second, *kernel = labels.of(weight)
    why = labels.why(op, f"has {groups} groups")
    for term in [*kernel, *labels.of(x)[2:]]:
        freeze(term, labels.why(op, "slides its kernel over space"))
    spread = _factor(channels, groups, why)
    if transposed:
        own = _factor(first, groups, why)
        read, made = own[1], second
    else:
        own = _factor(first, groups, why)
        read, made = second, own[1]
    unify(spread[0], own[0], why)
    out = product([resolve(own[0]), resolve(made)])
    if resolve(spread[1]).size == 1 and groups > 1:  # depthwise: channels are carried, not summed
        if not isinstance(resolve(read), Fixed):
            freeze(read, labels.why(op, "keeps one channel in each group"))
        labels.contract(op, (x, [], []), (weight, [], [made]), bias)
    else:
        labels.contract(op, (x, [spread[1]], []), (weight, [read], [made]), bias)
    if bias is not None:
        unify(out, labels.of(bias)[0], labels.why(op, "adds the bias"))
    for attribute, term in (("in_channels", channels), ("out_channels", out), ("groups", own[0])):
        labels.attributes.append((op.module, attribute, (term,)))
    space = labels.shape(op.results()[0])[2:]
    labels.give(op, [labels.of(x)[0], out, *(labels.fixed(op, n) for n in space)])


def _factor(term: Term, groups: int, why: str) -> tuple[Term, Term]:
    if groups == 1:  # the term as it is: a slot is known by identity
        return UNIT, term
    pair = factor(term, groups, term.size // groups)
    if pair is None:
        freeze(term, why)
        return Fixed(groups, why), Fixed(term.size // groups, why)
    return pair


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
)
def attention(labels: Labels, op: Op) -> None:
    """softmax(q kᵀ · scale) v: q and k share the head dimension, v's passes."""
    q, k, v = op.args[:3]
    why = labels.why(op, "multiplies queries by keys")
    left, middle, right = labels.of(q), labels.of(k), labels.of(v)
    unify(middle[-2], right[-2], why)
    freeze(middle[-2], labels.why(op, "takes the softmax over them"))
    labels.contract(op, (q, [left[-1]], []), (k, [middle[-1]], []))
    for query, key, value in zip(left[:-2], middle[:-2], right[:-2], strict=True):
        unify(key, value, why)
        if query.size == key.size:
            unify(query, key, why)
        else:  # grouped queries: consecutive query heads share one key head
            unify(_factor(query, key.size, why)[0], key, why)
    out = [*left[:-1], right[-1]]
    given = op.named()
    mask = given.get("attn_mask", given.get("attn_bias"))
    added = labels.of(mask)[:-1] if mask is not None else []
    for term, own in zip(reversed(left[:-1]), reversed(added), strict=False):
        if own.size == term.size:  # a bias table holds an entry for each head
            unify(term, own, labels.why(op, "adds them to the scores"))
    others = op.results()[1:]
    labels.give(op, out, *([labels.fixed(op, n) for n in labels.shape(r)] for r in others))


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(labels: Labels, op: Op) -> None:
    """`g · v / ‖v‖` over all dimensions of v but one."""
    v, g = op.args[:2]
    broadcast(labels, op, [v, g])
    keep = argument(op, 2, "dim", 0)
    terms = labels.of(v)
    for dim, term in enumerate(terms):
        if dim != keep:
            why = labels.why(op, "normalises the weight over them")
            forbid_split(term, why)
            mark_inexact(term, why)
    norm = [term if dim == keep else UNIT for dim, term in enumerate(terms)]
    labels.give(op, terms, norm)
