"""Elementwise operations, and operations that create tensors."""

from __future__ import annotations

from ramify.tracing.dims import Atom, Fixed, Term
from ramify.tracing.recorder import Ref
from ramify.tracing.rules.registry import aten_rule
from ramify.tracing.traced_op import TracedOp


@aten_rule(
    *(
        "add clone _to_copy copy copy_ where masked_fill masked_fill_ lerp lerp_ "
        "bernoulli bernoulli_ fill fill_ zero_ zero normal_ uniform_ random_ exponential_ "
        "detach detach_ alias lift_fresh contiguous _prelu_kernel dropout_ "
        "nan_to_num _conj resolve_conj real angle abs_ gelu_ mish_ "
        "hardswish hardswish_ threshold_ log_sigmoid_forward floor_divide floor_divide_ copysign_ "
        "heaviside_ eq_ ne_ lt_ le_ gt_ ge_ poisson complex polar _add_relu _masked_scale"
    ).split()
)
def pointwise(op: TracedOp) -> None:
    """An elementwise operation with broadcasting (used for every op tagged pointwise)."""
    terms = op.broadcast([r for r in op.inputs() if op.shape(r)])
    op.give(
        *(
            terms if len(shape) == len(terms) else [op.fixed(n) for n in shape]
            for shape in map(op.shape, op.results())
        ),
    )


@aten_rule("tril", "triu", "tril_", "triu_")
def triangle(op: TracedOp) -> None:
    """The elements on one side of the diagonal: rows and columns are frozen."""
    assert isinstance(op.args[0], Ref)
    terms = op.dims(op.args[0])
    for term in terms[-2:]:
        op.freeze(term, "cuts along the diagonal")
    op.give(terms)


@aten_rule(*"zeros_like ones_like empty_like full_like rand_like randn_like randint_like".split())
def like(op: TracedOp) -> None:
    """A new tensor with the shape of another."""
    assert isinstance(op.args[0], Ref)
    op.give(op.dims(op.args[0]))


@aten_rule(
    *(
        "zeros ones empty full new_zeros new_ones new_empty new_full rand randn empty_strided "
        "new_empty_strided"
    ).split()
)
def create(op: TracedOp) -> None:
    """A new uniform tensor, whose sizes may follow an edit (the trial growth tests this)."""
    (result,) = op.results()
    op.give([Atom(n) if n > 1 else Fixed(n) for n in op.shape(result)])


@aten_rule(
    *(
        "arange linspace eye scalar_tensor randperm tril_indices triu_indices randint "
        "hann_window fft_fftfreq fft_rfftfreq"
    ).split()
)
def constant(op: TracedOp) -> None:
    """A new tensor whose elements differ: its size is frozen."""
    (result,) = op.results()
    size: list[Term] = [op.fixed(n, "numbers them") for n in op.shape(result)]
    op.give(size)


@aten_rule("_local_scalar_dense", "is_nonzero", "equal", "_assert_async", "_assert_scalar")
def value(op: TracedOp) -> None:
    """A value that Python reads: no dimensions flow."""
