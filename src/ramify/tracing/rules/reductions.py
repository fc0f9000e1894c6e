"""Operations that reduce or mix along a dimension."""

from __future__ import annotations

from ramify.tracing.dims import UNIT, Term, forbid_split, freeze, mark_inexact
from ramify.tracing.propagate import Labels, rule
from ramify.tracing.recorder import Op, Ref
from ramify.tracing.rules.moves import argument, axis

SUMS = frozenset({"aten::sum", "aten::nansum"})


@rule(
    *(
        "sum nansum mean amax amin max min var std var_mean std_mean linalg_vector_norm norm prod "
        "any all argmax argmin logsumexp median aminmax count_nonzero"
    ).split()
)
def reduce(labels: Labels, op: Op) -> None:
    """Some dimensions go: their channels are read without a weight that could scale a copy."""
    refs = op.inputs()
    if len(refs) == 2 and op.name in ("aten::max", "aten::min"):  # entry by entry
        from ramify.tracing.rules.pointwise import pointwise

        pointwise(labels, op)
        return
    terms = labels.of(refs[0])
    keep = [argument(op, i, "keepdim", False) for i in (2, 3)]
    keepdim = any(k is True for k in keep)
    gone = _reduced(op, len(terms))
    for dim in gone:
        forbid_split(terms[dim], labels.why(op, "reads the channels without a weight"))
        if op.name not in SUMS:
            mark_inexact(terms[dim], labels.why(op, "depends on their number"))
    out: list[Term] = []
    for dim, term in enumerate(terms):
        if dim not in gone:
            out.append(term)
        elif keepdim:
            out.append(UNIT)
    results = op.results()
    if results and len(labels.shape(results[0])) != len(out):
        out = [UNIT if d in gone else t for d, t in enumerate(terms)]
    labels.give(op, *([out] * len(results)))


def _reduced(op: Op, rank: int) -> set[int]:
    position = 2 if op.name in ("aten::linalg_vector_norm", "aten::norm") else 1
    dims = argument(op, position, "dim", None)
    if isinstance(dims, bool) or dims is None or dims == []:
        return set(range(rank))
    return {axis(d, rank) for d in ([dims] if isinstance(dims, int) else dims)}


@rule(
    *(
        "_softmax _log_softmax softmax log_softmax cumsum cumsum_ cumprod logcumsumexp cummax "
        "cummin sort argsort topk kthvalue mode _safe_softmax"
    ).split()
)
def mix(labels: Labels, op: Op) -> None:
    """Entries along one dimension depend on each other: that dimension stays."""
    source = op.args[0]
    assert isinstance(source, Ref)
    terms = labels.of(source)
    position = 2 if op.name in ("aten::topk", "aten::kthvalue") else 1
    dim = axis(argument(op, position, "dim", -1), len(terms)) if terms else 0
    if terms:
        freeze(terms[dim], labels.why(op, "mixes them"))
    for ref in op.results():
        shape = labels.shape(ref)
        labels.dims[ref.index] = [
            term if term.size == size else labels.fixed(op, size)
            for term, size in zip(terms, shape, strict=False)
        ]


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(labels: Labels, op: Op) -> None:
    """Fourier transforms mix what lies along some dimensions: those stay."""
    source, dims = op.args[:2]
    assert isinstance(source, Ref)
    terms = list(labels.of(source))
    shape = labels.shape(op.results()[0])
    for dim in (axis(d, len(terms)) for d in dims):
        freeze(terms[dim], labels.why(op, "mixes them"))
        terms[dim] = labels.fixed(op, shape[dim])
    labels.give(op, terms)
