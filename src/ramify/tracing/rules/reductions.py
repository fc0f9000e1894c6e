"""Operations that reduce or mix along a dimension."""

from __future__ import annotations

from collections.abc import Sequence

from ramify.tracing.dims import UNIT, Term
from ramify.tracing.recorder import Ref
from ramify.tracing.rules.moves import axis
from ramify.tracing.rules.registry import aten_rule
from ramify.tracing.traced_op import TracedOp

SUMS = frozenset({"aten::sum", "aten::nansum"})


@aten_rule(
    *(
        "sum nansum mean amax amin max min var std var_mean std_mean linalg_vector_norm norm prod "
        "any all argmax argmin logsumexp median aminmax count_nonzero"
    ).split()
)
def reduce(op: TracedOp) -> None:
    """Some dimensions are reduced: no weight reads their channels and could scale a copy."""
    refs = op.inputs()
    if len(refs) == 2 and op.name in ("aten::max", "aten::min"):  # elementwise
        from ramify.tracing.rules.pointwise import pointwise

        pointwise(op)
        return
    terms = op.dims(refs[0])
    keep = [op.argument(i, "keepdim", False) for i in (2, 3)]
    keepdim = any(k is True for k in keep)
    gone = _reduced(op, len(terms))
    for dim in gone:
        op.forbid_split(terms[dim], "reads the channels without a weight")
        if op.name not in SUMS:
            op.mark_inexact(terms[dim], "depends on their number")
    out: list[Term] = []
    for dim, term in enumerate(terms):
        if dim not in gone:
            out.append(term)
        elif keepdim:
            out.append(UNIT)
    results = op.results()
    if results and len(op.shape(results[0])) != len(out):
        out = [UNIT if d in gone else t for d, t in enumerate(terms)]
    op.give(*([out] * len(results)))
    numbers = op.name.removeprefix("aten::") in ("argmax", "argmin", "max", "min")
    if numbers and len(gone) == 1 and not op.dtype(results[-1]).is_floating_point:
        op.number(results[-1], terms[gone.pop()])


def _reduced(op: TracedOp, rank: int) -> set[int]:
    position = 2 if op.name in ("aten::linalg_vector_norm", "aten::norm") else 1
    dims = op.argument(position, "dim", None)
    if isinstance(dims, bool) or dims is None or dims == []:
        return set(range(rank))
    return {axis(d, rank) for d in ([dims] if isinstance(dims, int) else dims)}


@aten_rule(
    *(
        "_softmax _log_softmax softmax log_softmax cumsum cumsum_ cumprod logcumsumexp cummax "
        "cummin sort argsort topk kthvalue mode _safe_softmax"
    ).split()
)
def mix(op: TracedOp) -> None:
    """Elements along one dimension depend on each other, so that dimension is frozen."""
    source = op.args[0]
    assert isinstance(source, Ref)
    terms = op.dims(source)
    position = 2 if op.name in ("aten::topk", "aten::kthvalue") else 1
    dim = axis(op.argument(position, "dim", -1), len(terms)) if terms else 0
    if terms and op.name in _RANKS:  # some experts may be removed
        op.rank(terms[dim], "mixes them")
    elif terms:
        op.freeze(terms[dim], "mixes them")
    if op.name == "aten::topk":
        _largest(op, terms, dim)
        return
    for ref in op.results():
        shape = op.shape(ref)
        op.replace(
            ref,
            [
                term if term.size == size else op.fixed(size)
                for term, size in zip(terms, shape, strict=False)
            ],
        )


_RANKS = frozenset(
    f"aten::{name}"
    for name in "_softmax _log_softmax softmax log_softmax _safe_softmax topk cumsum".split()
)
"""Operations that mix the elements of a dimension without regard to their order."""


def _largest(op: TracedOp, terms: Sequence[Term], dim: int) -> None:
    """The largest elements and their indices: at least as many channels must stay."""
    chosen = op.results()[1]
    if not terms:
        op.give([], [])
        return
    count = op.fixed(int(op.argument(1, "k", 1)))
    op.rank(terms[dim], "mixes them", count.size)
    out = [count if n == dim else term for n, term in enumerate(terms)]
    op.give(out, out)
    op.number(chosen, terms[dim])


@aten_rule(
    *(
        "mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy "
        "binary_cross_entropy_with_logits"
    ).split()
)
def loss(op: TracedOp) -> None:
    """An elementwise loss, and its reduction."""
    terms = op.broadcast([ref for ref in op.inputs() if op.shape(ref)])
    if op.named().get("reduction", 1) == 0:  # no reduction
        op.give(terms)
        return
    for note in (op.forbid_split, op.mark_inexact):
        note(terms, "adds up a loss of each of them")
    op.give([])


@aten_rule("nll_loss_forward", "nll_loss2d_forward")
def class_loss(op: TracedOp) -> None:
    """A loss that reads the element of each sample's class: the classes are frozen."""
    terms = list(op.dims(op.args[0]))
    classes = terms.pop(min(len(terms) - 1, 1))
    op.freeze(classes, "takes one of them for each sample")
    if op.argument(2, "weight", None) is not None:
        op.tie(classes, op.dims(op.argument(2, "weight", None))[0], "weighs the classes")
    op.give(terms if op.shape(op.results()[0]) else [], [])


@aten_rule("histc")
def histogram(op: TracedOp) -> None:
    """The number of elements with each index: one bin for each position."""
    (result,) = op.results()
    bins, least, most = (op.argument(n, name, 0) for n, name in enumerate(_BINS, 1))
    term = op.numbers(op.args[0])
    if term is not None and (least, most) == (0, bins - 1) and term.size == bins:
        op.give([term])
        return
    if term is not None:
        op.freeze(term, "uses their numbers")
    op.give([op.fixed(op.shape(result)[0])])


_BINS = ("bins", "min", "max")


@aten_rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(op: TracedOp) -> None:
    """Fourier transforms mix elements along some dimensions, which are frozen."""
    source, dims = op.args[:2]
    assert isinstance(source, Ref)
    terms = list(op.dims(source))
    shape = op.shape(op.results()[0])
    for dim in (axis(d, len(terms)) for d in dims):
        op.freeze(terms[dim], "mixes them")
        terms[dim] = op.fixed(shape[dim])
    op.give(terms)
