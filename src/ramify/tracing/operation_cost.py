"""The cost of operations in multiply-accumulates (MACs), and the total of many.

One MAC is one multiplication with its addition, or two FLOPs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ramify.tracing.recorder import Op, Ref

RESOURCES = ("params", "macs", "flops", "energy")
"""The resources of `Cost.of`, which are the names that budgets and trade-offs use."""


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-accumulates (MACs) of a model on given inputs.

    Attributes:
        params: scalar parameters, each counted once.
        macs: multiply-accumulates of one forward on the traced inputs.
        by_kind: the MACs of `conv`, `linear`, `attention`, `matmul` and `norm`.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> of = ramify.cost.graph_cost
        >>> before, after = of(graph), of(graph, [ramify.Prune("0", 3)])
        >>> before.params, before.flops, (before - after).macs
        (58, 96, 6)
    """

    params: int
    macs: int
    by_kind: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each MAC."""
        return 2 * self.macs

    @property
    def energy(self) -> int:
        """The MACs of convolutions and linear layers, a proxy for the energy of a forward.

        For one channel of a k×k convolution on maps of H×H pixels, this is k²·C_in·H², plus the
        9·H² of a depthwise convolution after it, plus the columns of every layer that reads it.

        Source: D. Wang and others, "Energy-aware neural architecture optimization with fast
        splitting steepest descent", 2019; S3D, section 3.3.
        """
        other = ("attention", "matmul", "norm")
        return self.macs - sum(self.by_kind.get(kind, 0) for kind in other)

    def of(self, resource: str) -> int:
        """The amount of one of `RESOURCES`."""
        amounts = (self.params, self.macs, self.flops, self.energy)
        return amounts[RESOURCES.index(resource)]

    def __sub__(self, other: Cost) -> Cost:
        """The difference, kind by kind."""
        kinds = {
            kind: self.by_kind.get(kind, 0) - other.by_kind.get(kind, 0)
            for kind in {*self.by_kind, *other.by_kind}
        }
        return Cost(self.params - other.params, self.macs - other.macs, kinds)


_MATRIX = {"aten::mm": 0, "aten::bmm": 0, "aten::mv": 0, "aten::dot": 0, "aten::vdot": 0}
_BIASED = {"aten::addmm": 1, "aten::baddbmm": 1, "aten::addmv": 1, "aten::_addmm_activation": 1}
# Passes over the elements: batch norm at test time scales and shifts; the others compute the mean
# and variance, then scale and shift; root-mean-square norms have no mean.
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


Shape = Callable[[Ref], Sequence[Any]]
"""The shape of a tensor of the tape, as numbers of any type."""


def counted_macs(op: Op, shape: Shape) -> tuple[str, Any]:
    """(kind, MACs) of one operation; the kind is empty if nothing is counted."""
    if "convolution" in op.name:
        return "conv", _convolution(op, shape)
    if "scaled_dot_product" in op.name and not op.name.startswith("aten::_fused_sdp"):
        q, k, v = (shape(ref) for ref in op.args[:3])
        return "attention", math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
    if op.name in _MATRIX or op.name in _BIASED:
        first = _MATRIX.get(op.name, 1)
        left, right = op.args[first], op.args[first + 1]
        columns = shape(right)[-1] if len(shape(right)) > 1 else 1
        kind = "matmul" if op.name in ("aten::bmm", "aten::baddbmm") else "linear"
        return kind, math.prod(shape(left)) * columns
    if op.name == "aten::linear":
        return "linear", math.prod(shape(op.args[0])) * shape(op.args[1])[0]
    if op.name in _NORMS:
        return "norm", math.prod(shape(op.args[0])) * _NORMS[op.name]
    return "", 0


def _convolution(op: Op, shape: Shape) -> Any:
    weight = shape(op.args[1])
    moved: Sequence[Any] = shape(op.args[0] if op.args[6] else op.results()[0])
    return math.prod(moved) * math.prod(weight[1:])
