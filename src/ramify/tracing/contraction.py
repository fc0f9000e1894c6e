"""Sums over channels: what the pass over a tape notes of each, and the operations by what they do.

A contraction is where channels are read: a weight is multiplied with an activation and summed over
the channels, or, in attention, one activation with another.
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
"""Operations that only move a tensor's entries: a scaled column stays a scaled column."""

LOOKS_UP = frozenset({"aten::index", "aten::index_select", "aten::_unsafe_index"})
"""Operations that take entries of their first argument by number: of a weight, still a weight."""

NUMBER_SCALES = frozenset({"aten::mul", "aten::div", "aten::neg"})
"""Operations that multiply every entry alike when the other operand is a number."""

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
"""Products of matrices and vectors, and where the first factor stands among the arguments."""

AxisKey = tuple[str, int, int]
"""Where an axis first lies: tensor name, dimension, and which leaf of that dimension's term."""

ProductKey = tuple[AxisKey, int]
"""Which product of activations: an axis that it sums over, and which of those that sum over it.

A network of other widths may take another kernel of attention, which has one product more or less.
"""

Rows = dict[tuple[str, int], NDArray[np.bool_]]
"""(tensor name, dimension) -> which of its positions."""


@dataclass(frozen=True)
class Provenance:
    """The parameters that a tensor was made of alone; `moved`: by moving entries only."""

    names: frozenset[str]
    moved: bool


@dataclass
class Contraction:
    """One read: `weight` sums over channels of `source` and makes the channels `made`.

    Attributes:
        tape: the run.
        op: the operation's number on the tape.
        source: the activation.
        weight: the other factor; without `names` it is an activation as well.
        names: the parameters that `weight` is made of.
        moved: whether `weight` is made by moving entries of one parameter.
        read: the dimensions of `weight` that are summed over.
        made: the dimensions of `weight` that stay.
        bias_names: the parameters that the bias is made of.
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
    """A product of two activations, one of whose factors is made by rows that can scale it.

    Attributes:
        key: which product it is.
        read: the product.
        rows: the rows of weights that make the factor.
        between: the operations from those rows to the product.
        other_between: the operations from what makes the other factor to the product.
    """

    key: ProductKey
    read: Contraction
    rows: Rows
    between: frozenset[int]
    other_between: frozenset[int]
