"""Finds the parameters that must be zero for the branches of a residual block to add nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ramify.tracing.contraction import FIRST_FACTOR, MOVES, MULTIPLIES
from ramify.tracing.recorder import Ref, Tape

ADDS = frozenset({"aten::add", "aten::add_"})

NORMS: Mapping[str, tuple[int, int]] = {
    "aten::native_batch_norm": (1, 2),
    "aten::_native_batch_norm_legit_no_training": (1, 2),
    "aten::_native_batch_norm_legit": (1, 2),
    "aten::_batch_norm_no_update": (1, 2),
    "aten::cudnn_batch_norm": (1, 2),
    "aten::native_layer_norm": (2, 3),
    "aten::native_group_norm": (1, 2),
    "aten::_fused_rms_norm": (2, 3),
}
"""Norms, and the positions of their weight and bias among the arguments."""

RELUS = frozenset({"aten::relu", "aten::relu_", "aten::clamp_min", "aten::clamp_min_"})
"""Idempotent activations: applied to their own outputs, they change nothing."""

_KEEPS_ZERO = (
    MOVES
    | MULTIPLIES
    | RELUS
    | {f"aten::{name}" for name in "gelu silu silu_ tanh tanh_ leaky_relu dropout roll neg".split()}
    | {f"aten::{name}" for name in "constant_pad_nd mean sum avg_pool2d".split()}
)
"""Operations of one activation that map zeros to zeros."""

_PRODUCTS = {"aten::bmm": 1, "aten::baddbmm": 2, "aten::mm": 1, "aten::mul": 0, "aten::mul_": 0}
"""Products of two activations, and which factor to make zero."""


@dataclass(frozen=True)
class End:
    """A parameter that makes a branch zero when all of it has one value.

    Attributes:
        name: the name of the parameter.
        value: zero, or the value that makes a factor computed from the parameter zero.
    """

    name: str
    value: float = 0.0


class NoEnd(Exception):
    """No parameter makes this branch zero."""


class Ends:
    """Follows branches of one tape back to the parameters that produce them.

    Args:
        tape: the run.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._made_at: dict[int, list[int]] = defaultdict(list)
        self._of_weights: dict[int, bool] = dict.fromkeys(tape.names, True)
        for position, op in enumerate(tape.ops):
            inputs = op.inputs()
            alone = bool(inputs) and all(self.is_weight(ref) for ref in inputs)
            for ref in op.results():
                self._made_at[ref.index].append(position)
                self._of_weights.setdefault(ref.index, alone)

    def is_weight(self, ref: Ref) -> bool:
        """Whether a tensor is computed from parameters and buffers only."""
        return self._of_weights.get(ref.index, False)

    def of(self, branch: Ref, start: int, end: int) -> list[End]:
        """Find the parameters that make a branch zero.

        Args:
            branch: the tensor that is added to the stream.
            start: the first operation of the block.
            end: the operation that adds it.

        Returns:
            The parameters, with the value that each must have.

        Raises:
            NoEnd: no such parameter was found.
        """
        return list(dict.fromkeys(self._walk(branch, start, end)))

    def _made_before(self, ref: Ref, end: int) -> int:
        """The last operation before `end` that computed a tensor or wrote to it; -1 if none."""
        return max((at for at in self._made_at[ref.index] if at < end), default=-1)

    def _walk(self, ref: Ref, start: int, end: int) -> Iterator[End]:
        at = self._made_before(ref, end)
        if at < start:
            raise NoEnd
        op = self._tape.ops[at]
        weights = [one for one in op.inputs() if self.is_weight(one)]
        others = [one for one in op.inputs() if not self.is_weight(one)]
        onward: Sequence[Ref] = ()
        if op.name in NORMS:
            yield from self._parameters([op.args[n] for n in NORMS[op.name] if n < len(op.args)])
        elif weights and ("convolution" in op.name or op.name in FIRST_FACTOR):
            yield from self._parameters(weights)
        elif op.name in ADDS:
            yield from self._parameters(weights)
            onward = others
        elif op.name in MULTIPLIES and weights:
            try:  # a branch times a parameter, or times a parameter plus a number
                yield from self._parameters(weights)
            except NoEnd:
                onward = others
        elif "scaled_dot_product" in op.name:
            onward = op.args[2:3]
        elif len(others) > 1 and op.name in _PRODUCTS:
            onward = [op.args[_PRODUCTS[op.name]]]
        elif op.name in _KEEPS_ZERO:
            onward = others
        else:
            raise NoEnd
        for other in onward:
            yield from self._walk(other, start, at)

    def _parameters(self, refs: Sequence[Ref | None]) -> list[End]:
        """The parameters behind weights that are only moved or have a number added."""
        given = [ref for ref in refs if isinstance(ref, Ref)]
        if not given and refs:
            raise NoEnd
        found = []
        for ref in given:
            value, here = 0.0, ref
            while here.index not in self._tape.names:
                op = self._tape.ops[self._made_before(here, len(self._tape.ops))]
                number = op.args[1] if len(op.args) > 1 else None
                added = op.name in ADDS and isinstance(number, (int, float)) and not op.kwargs
                if len(op.inputs()) != 1 or not (added or op.name in MOVES):
                    raise NoEnd
                if added and isinstance(number, (int, float)):
                    value -= number
                here = op.inputs()[0]
            found.append(End(self._tape.names[here.index], value))
        return found
