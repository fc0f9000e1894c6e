"""Sums over channels, as recorded in the pass over a tape, and tables of operations by effect.

A contraction reads channels: a weight is multiplied with an activation and summed over the
channels. In attention, both factors are activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ramify.tracing.dims import Term
from ramify.tracing.recorder import Ref, Tape

MOVES = frozenset(
    f"aten::{name}"
    for name in (
        "t transpose permute view _unsafe_view reshape clone detach alias _to_copy slice select "
        "split split_with_sizes unbind expand unsqueeze squeeze cat stack lift_fresh contiguous"
    ).split()
)
"""Operations that only move a tensor's elements: a scaled column stays a scaled column."""

LOOKS_UP = frozenset({"aten::index", "aten::index_select", "aten::_unsafe_index"})
"""Operations that index their first argument; applied to a weight, the result is a weight."""

NUMBER_SCALES = frozenset({"aten::mul", "aten::div", "aten::neg"})
"""Operations that scale all elements equally if the other operand is a number."""

MULTIPLIES = frozenset(f"aten::{name}" for name in ("mul", "div", "mul_", "div_"))

FIRST_FACTOR: Mapping[str, int] = {
    "aten::mm": 0,
    "aten::bmm": 0,
    "aten::mv": 0,
    "aten::dot": 0,
    "aten::addmm": 1,
    "aten::baddbmm": 1,
    "aten::addmv": 1,
}
"""Products of matrices and vectors, and the position of the first factor in the arguments."""

AxisKey = tuple[str, int, int]
"""The first location of an axis: tensor name, dimension, index of the leaf in its term."""

ProductKey = tuple[AxisKey, int]
"""A product of activations: an axis that it sums over, and its index among those products.

A network of other widths may use another attention kernel, with one product more or less.
"""

Rows = dict[tuple[str, int], NDArray[np.bool_]]
"""(tensor name, dimension) -> mask of its positions."""


@dataclass(frozen=True)
class Provenance:
    """The only parameters that a tensor is computed from; `moved`: only by moving elements."""

    names: frozenset[str]
    moved: bool


@dataclass
class Contraction:
    """One read: `weight` sums over channels of `source` and produces the channels `made`.

    Attributes:
        tape: the run.
        op: the operation's number on the tape.
        source: the activation.
        weight: the other factor; without `names` it is also an activation.
        names: the parameters that `weight` is computed from.
        moved: whether `weight` is one parameter with its elements moved.
        read: the dimensions of `weight` that are summed over.
        made: the dimensions of `weight` that remain.
        bias_names: the parameters that the bias is computed from.
    """

    tape: Tape = field(repr=False)
    op: int
    source: Ref
    weight: Ref
    names: frozenset[str]
    moved: bool
    read: tuple[Term, ...]
    made: tuple[Term, ...]
    bias_names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ScalableProduct:
    """A product of two activations, of which one factor can be scaled through rows of weights.

    Attributes:
        key: identifies the product.
        read: the product.
        rows: the rows of weights that produce the factor.
        between: the operations from those rows to the product.
        other_between: the operations from the rows of the other factor to the product.
    """

    key: ProductKey
    read: Contraction
    rows: Rows
    between: frozenset[int]
    other_between: frozenset[int]
