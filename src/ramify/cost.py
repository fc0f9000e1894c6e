"""What a model costs, and what it would cost after edits: parameters and multiply-accumulates.

One MAC is one multiplication with its addition; a FLOP count is twice that. Sizes come from the
labelled tape, so an edit is priced without being applied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ramify.edit import Edit, plan_edits
from ramify.trace import ChannelGraph, trace
from ramify.trace.layout import Changes, new_size
from ramify.trace.recorder import Op, Ref
from ramify.trace.terms import resolve


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-accumulates (MACs) of a model on given inputs.

    Attributes:
        params: scalar parameters, each counted once.
        macs: multiply-accumulates of one forward on the traced inputs.
        by_kind: the MACs of `conv`, `linear`, `attention`, `matmul` and `norm`.
    """

    params: int
    macs: int
    by_kind: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each MAC."""
        return 2 * self.macs

    def __sub__(self, other: Cost) -> Cost:
        """The difference, kind by kind."""
        kinds = {
            kind: self.by_kind.get(kind, 0) - other.by_kind.get(kind, 0)
            for kind in {*self.by_kind, *other.by_kind}
        }
        return Cost(self.params - other.params, self.macs - other.macs, kinds)


def model_cost(model: nn.Module, inputs: Any) -> Cost:
    """Parameters and MACs of a model on these inputs.

    Args:
        model: any module whose forward runs.
        inputs: as `ramify.trace` takes them; MACs are for all samples in them.

    Returns:
        The cost.

    Example:
        >>> import torch
        >>> model_cost(nn.Linear(4, 8), torch.randn(1, 4)).macs
        32
    """
    return graph_cost(trace(model, inputs))


def graph_cost(graph: ChannelGraph, edits: Iterable[Edit] = ()) -> Cost:
    """The cost of a traced model after edits that are not applied.

    Convolutions, products of matrices and scaled-dot-product attention (q kᵀ and its product with
    v) count their MACs. A norm counts one MAC an entry for each pass over it: scale and shift,
    and, where statistics are computed, mean and variance.

    Args:
        graph: the traced model.
        edits: what to suppose done.

    Returns:
        The cost on the inputs of the trace.

    Raises:
        RamifyError: an edit is not possible.
    """
    changes = plan_edits(graph, edits).changes
    parameters = {name for name, _ in graph.model.named_parameters()}
    params = sum(
        math.prod(new_size(term, changes) for term in terms)
        for name, terms in graph.dims.items()
        if name in parameters
    )
    sizes = _Sizes(graph, changes)
    kinds: dict[str, int] = {}
    for op in graph.tapes[0].ops:
        kind, macs = _count(op, sizes)
        if kind:
            kinds[kind] = kinds.get(kind, 0) + macs
    return Cost(params, sum(kinds.values()), kinds)


class _Sizes:
    """Shapes of the tape's tensors after the changes."""

    def __init__(self, graph: ChannelGraph, changes: Changes) -> None:
        self._terms = graph.labels.history[0]
        self._changes = changes
        self._known: dict[int, tuple[int, ...]] = {}

    def of(self, ref: Ref) -> tuple[int, ...]:
        """The shape of a tensor."""
        if ref.index not in self._known:
            terms = self._terms[ref.index]
            self._known[ref.index] = tuple(new_size(resolve(t), self._changes) for t in terms)
        return self._known[ref.index]


_MATRIX = {"aten::mm": 0, "aten::bmm": 0, "aten::mv": 0, "aten::dot": 0, "aten::vdot": 0}
_BIASED = {"aten::addmm": 1, "aten::baddbmm": 1, "aten::addmv": 1, "aten::_addmm_activation": 1}
# Passes over the entries: batch norm at test time scales and shifts; the others find the mean,
# the variance, and scale and shift; root-mean-square norms have no mean.
_NORMS = {
    "aten::native_batch_norm": 1,
    "aten::_native_batch_norm_legit_no_training": 1,
    "aten::_native_batch_norm_legit": 3,
    "aten::_batch_norm_no_update": 1,
    "aten::cudnn_batch_norm": 1,
    "aten::native_layer_norm": 3,
    "aten::native_group_norm": 3,
    "aten::_fused_rms_norm": 2,
}


def _count(op: Op, sizes: _Sizes) -> tuple[str, int]:
    """(kind, MACs) of one operation; no kind where nothing is counted."""
    if "convolution" in op.name:
        return "conv", _convolution(op, sizes)
    if "scaled_dot_product" in op.name and not op.name.startswith("aten::_fused_sdp"):
        q, k, v = (sizes.of(ref) for ref in op.args[:3])
        return "attention", math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    if op.name in _MATRIX or op.name in _BIASED:
        first = _MATRIX.get(op.name, 1)
        left, right = op.args[first], op.args[first + 1]
        columns = sizes.of(right)[-1] if len(sizes.of(right)) > 1 else 1
        kind = "matmul" if op.name in ("aten::bmm", "aten::baddbmm") else "linear"
        return kind, math.prod(sizes.of(left)) * columns
    if op.name == "aten::linear":
        return "linear", math.prod(sizes.of(op.args[0])) * sizes.of(op.args[1])[0]
    if op.name in _NORMS:
        return "norm", math.prod(sizes.of(op.args[0])) * _NORMS[op.name]
    return "", 0


def _convolution(op: Op, sizes: _Sizes) -> int:
    weight = sizes.of(op.args[1])
    moved: Sequence[int] = sizes.of(op.args[0] if op.args[6] else op.results()[0])
    return math.prod(moved) * math.prod(weight[1:])
