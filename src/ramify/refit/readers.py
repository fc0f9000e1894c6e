"""The linear readers of a run: their inputs, and the parameter entries that they use.

An operation is a reader if one operand is a parameter whose entries were only moved (transposed,
viewed, sliced, chunked) on the way, so that a new weight can be written back. The module class does
not matter: a bare parameter that a forward multiplies with is a reader too.

Shape letters: `G` groups of a convolution (1 elsewhere), `F` features that one group reads (its
channels times the positions of the kernel), `O` outputs of one group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramify.tracing.contraction import MOVES
from ramify.tracing.recorder import Op, Ref, Tape, mapped

_PRODUCTS = {"aten::mm": 0, "aten::addmm": 1, "aten::mv": 0, "aten::matmul": 0}
"""Matrix products, and the position of their first factor among the arguments."""
_LINEAR = frozenset({"aten::linear", "aten::mkldnn_linear", "aten::_mkl_linear"})
_CONVOLUTIONS = frozenset(
    f"aten::{name}"
    for name in ("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution")
)
_BATCH_NORMS = frozenset(
    f"aten::{name}"
    for name in (
        "native_batch_norm",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_no_update",
        "cudnn_batch_norm",
        "miopen_batch_norm",
        "batch_norm",
    )
)


@dataclass(frozen=True)
class Geometry:
    """The geometry of a convolution; empty for a matrix product.

    Attributes:
        size: the size of the kernel, one number per spatial dimension.
        stride: the stride of the kernel.
        padding: zeros at both ends.
        dilation: the dilation of the kernel.
        transposed: whether it is a transposed convolution.
        output_padding: the output padding of a transposed convolution.
        groups: the number of groups.
    """

    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


@dataclass(frozen=True, eq=False)
class Reader:
    """One operation that multiplies an activation by a parameter and sums over its channels.

    Attributes:
        position: the operation on the tape.
        source: its input.
        result: its output.
        name: the parameter.
        entries: (G, F, O), the number of the parameter's entry at each position of the weight.
        bias: the parameter that the same operation adds to the result.
        bias_entries: (G, O), the number of the bias' entry for each output.
        kernel: the geometry of a convolution.
        turned: whether the channels of the source come before its samples (weight @ x).
    """

    position: int
    source: Ref
    result: Ref
    name: str
    entries: Tensor
    bias: str | None = None
    bias_entries: Tensor | None = None
    kernel: Geometry | None = None
    turned: bool = False

    def along(self, rank: int) -> int:
        """The dimension of the outputs in a result with this number of dimensions."""
        if self.kernel is not None:
            return 1
        return 0 if self.turned else rank - 1


@dataclass(frozen=True)
class Norm:
    """One batch norm with running statistics: the names of its tensors.

    Attributes:
        position: the operation on the tape.
        source: its input.
        mean: the running mean.
        variance: the running variance.
        scale: the factor after it, if any.
        shift: the shift after it, if any.
        eps: the constant added to the variance.
    """

    position: int
    source: Ref
    mean: str
    variance: str
    scale: str | None
    shift: str | None
    eps: float


@dataclass(frozen=True)
class Course:
    """The readers and batch norms of one tape, each parameter belonging to only one of them.

    Attributes:
        readers: in the order of the run.
        norms: in the order of the run.
        behind: reader's position -> the norm that is the only user of its result.
    """

    readers: tuple[Reader, ...]
    norms: tuple[Norm, ...]
    behind: Mapping[int, Norm]


Numbers = dict[tuple[int, ...], Tensor]
"""Shape -> the numbers of a parameter's entries, shared by all parameters of that shape."""


def course_of(tape: Tape, numbers: Numbers | None = None) -> Course:
    """Every reader and batch norm of a tape whose parameters nothing else uses.

    A parameter that several operations use (a layer that is called twice, a tied weight) cannot be
    refitted for one of them, and is left out.

    Args:
        tape: the tape of one run.
        numbers: the numbers of other courses, to be shared: each takes twice the memory of its
            parameter.

    Returns:
        The readers and norms.
    """
    moved = _Moved(tape, {} if numbers is None else numbers)
    readers = [own for p, op in enumerate(tape.ops) if (own := _reader(moved, p, op))]
    norms = [held for p, op in enumerate(tape.ops) if (held := _norm(tape, p, op))]
    uses = moved.uses()
    readers = [r for r in readers if uses[r.name] == 1 and (r.bias is None or uses[r.bias] == 1)]
    norms = [norm for norm in norms if all(uses[n] == 1 for n in _held(norm))]
    takers = _takers(tape)
    by_source = {norm.source: norm for norm in norms}
    behind = {
        reader.position: by_source[reader.result]
        for reader in readers
        if reader.result in by_source and takers[reader.result] == 1
    }
    return Course(tuple(readers), tuple(norms), behind)


def _held(norm: Norm) -> list[str]:
    names = (norm.mean, norm.variance, norm.scale, norm.shift)
    return [name for name in names if name is not None]


def _takers(tape: Tape) -> Counter[Ref]:
    """How many operations use each tensor; an output of the run counts as a use."""
    counted: Counter[Ref] = Counter(ref for op in tape.ops for ref in set(op.inputs()))
    counted.update(set(tape.outputs))
    return counted


class _Moved:
    """The positions of moved parameters' entries in the tensors made from them."""

    def __init__(self, tape: Tape, numbers: Numbers) -> None:
        self.tape = tape
        self._numbers = numbers
        self._makers: dict[Ref, int] = {}
        self._written: set[Ref] = set()
        for position, op in enumerate(tape.ops):
            given = op.inputs()
            for ref in op.results():
                if ref not in given:
                    self._makers.setdefault(ref, position)
                elif op.func._schema.is_mutable:
                    self._written.add(ref)
        self._known: dict[Ref, tuple[str, Tensor] | None] = {}

    def uses(self) -> Counter[str]:
        """How many operations other than moves use each parameter, directly or moved."""
        counted: Counter[str] = Counter()
        for op in self.tape.ops:
            if op.name in MOVES:
                continue
            counted.update({name for ref in op.inputs() for name in self._names(ref)})
        return counted

    def _names(self, ref: Ref) -> set[str]:
        """The parameters that a tensor is made from by moves only."""
        name = self.tape.names.get(ref.index)
        if name is not None:
            return {name}
        position = self._makers.get(ref)
        if position is None or self.tape.ops[position].name not in MOVES:
            return set()
        return {name for made in self.tape.ops[position].inputs() for name in self._names(made)}

    def find(self, ref: Ref) -> tuple[str, Tensor] | None:
        """(parameter, number of its entry at each position) for a moved parameter."""
        if ref not in self._known:
            self._known[ref] = self._find(ref)
        return self._known[ref]

    def _find(self, ref: Ref) -> tuple[str, Tensor] | None:
        name = self.tape.names.get(ref.index)
        if name is not None:
            shape = tuple(self.tape.shape(ref))
            if shape not in self._numbers:
                self._numbers[shape] = torch.arange(torch.Size(shape).numel()).view(shape)
            return name, self._numbers[shape]
        position = self._makers.get(ref)
        if position is None or ref in self._written:
            return None
        op = self.tape.ops[position]
        sources = op.inputs()
        if op.name not in MOVES or len(sources) != 1:
            return None
        known = self.find(sources[0])
        if known is None:
            return None
        if op.name == "aten::_to_copy":  # another dtype: the same entries
            return known
        result = op.func(*mapped(op.args, lambda leaf: known[1] if leaf in sources else leaf))
        results = op.results()
        made = [result] if isinstance(result, Tensor) else list(result)
        return known[0], made[results.index(ref)]


def _reader(moved: _Moved, position: int, op: Op) -> Reader | None:
    if op.name in _CONVOLUTIONS:
        return _convolution(moved, position, op)
    if op.name in _LINEAR:
        given = op.named()
        x, weight, bias = op.args[0], op.args[1], given.get("bias")
        return _product(moved, position, op, (x, weight, bias), turned=False, transpose=True)
    if op.name not in _PRODUCTS:
        return None
    first = _PRODUCTS[op.name]
    a, b = op.args[first : first + 2]
    plain = op.kwargs.get("beta", 1) == 1 and op.kwargs.get("alpha", 1) == 1
    if not plain or len(moved.tape.shape(a)) < 2:
        return None
    bias = op.args[0] if first else None
    if moved.find(b) is not None and moved.find(a) is None:
        if len(moved.tape.shape(b)) != 2:
            return None
        return _product(moved, position, op, (a, b, bias), turned=False, transpose=False)
    if bias is None and moved.find(a) is not None and moved.find(b) is None:  # weight @ x
        if len(moved.tape.shape(a)) != 2 or len(moved.tape.shape(b)) != 2:
            return None
        return _product(moved, position, op, (b, a, None), turned=True, transpose=True)
    return None


def _product(
    moved: _Moved, position: int, op: Op, given: Any, *, turned: bool, transpose: bool
) -> Reader | None:
    x, weight, bias = given
    found = moved.find(weight)
    if found is None or moved.find(x) is not None:
        return None
    name, entries = found
    matrix = (entries.t() if transpose else entries)[None]  # (1, F, O)
    return _whole(moved, position, op, (x, name, matrix, bias), None, turned)


def _convolution(moved: _Moved, position: int, op: Op) -> Reader | None:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = op.args[:9]
    found = moved.find(weight)
    if found is None or moved.find(x) is not None:
        return None
    name, entries = found
    size = tuple(entries.shape[2:])
    if transposed:  # (C, O, *k): the patches are those of the spread input, the kernel flipped
        inside = entries.reshape(groups, -1, entries.shape[1], *size)
        inside = inside.flip(tuple(range(3, 3 + len(size))))
        matrix = inside.movedim(2, -1).reshape(groups, -1, entries.shape[1])
    else:  # (G O, C, *k)
        matrix = entries.reshape(groups, entries.shape[0] // groups, -1).transpose(1, 2)
    full = [tuple(v) * len(size) if len(v) == 1 else tuple(v) for v in (stride, padding, dilation)]
    kernel = Geometry(
        size, full[0], full[1], full[2], bool(transposed), tuple(output_padding), int(groups)
    )
    return _whole(moved, position, op, (x, name, matrix, bias), kernel, False)


def _whole(
    moved: _Moved, position: int, op: Op, given: Any, kernel: Geometry | None, turned: bool
) -> Reader | None:
    """The reader, if no entry of its weight occurs twice."""
    x, name, matrix, bias = given
    if matrix.numel() == 0 or int(torch.bincount(matrix.reshape(-1)).max()) > 1:
        return None
    groups, _, made = matrix.shape
    found = moved.find(bias) if isinstance(bias, Ref) else None
    if isinstance(bias, Ref) and (found is None or found[1].numel() != groups * made):
        return None  # what is added is not one bias entry per output
    return Reader(
        position=position,
        source=x,
        result=op.results()[0],
        name=name,
        entries=matrix,
        bias=found[0] if found else None,
        bias_entries=found[1].reshape(groups, made) if found else None,
        kernel=kernel,
        turned=turned,
    )


def _norm(tape: Tape, position: int, op: Op) -> Norm | None:
    if op.name not in _BATCH_NORMS:
        return None
    given = op.named()
    if given.get("training", given.get("train", False)):
        return None
    held = {}
    for key in ("running_mean", "running_var", "weight", "bias"):
        ref = given.get(key)
        name = tape.names.get(ref.index) if isinstance(ref, Ref) else None
        if isinstance(ref, Ref) and name is None:
            return None
        held[key] = name
    mean, variance = held["running_mean"], held["running_var"]
    if mean is None or variance is None:
        return None
    eps = given.get("eps", given.get("epsilon"))
    assert isinstance(eps, float)
    source = given["input"]
    return Norm(position, source, mean, variance, held["weight"], held["bias"], eps)
