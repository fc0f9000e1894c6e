"""What a model costs, and what it would cost after edits: parameters and multiply-accumulates.

One MAC is one multiplication with its addition, or two FLOPs. Sizes come from the
labelled tape, so an edit is priced without being applied. They are polynomials in the widths of the
groups, and so is the cost: `CostModel` compiles it once, for whoever prices many shapes.

Shape letters: `W` groups, `K` monomials, `P` the largest number of widths in one monomial.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ramify.edit import Edit, Split, plan_edits
from ramify.tracing import ChannelGraph, trace
from ramify.tracing.dims import Atom, Fixed, Sum, Term, resolve
from ramify.tracing.indexing import Index, new_size
from ramify.tracing.recorder import Op, Ref

RESOURCES = ("params", "macs", "flops", "energy")
"""What `Cost.of` counts: the names that budgets and trade-offs go by."""


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-accumulates (MACs) of a model on given inputs.

    Attributes:
        params: scalar parameters, each counted once.
        macs: multiply-accumulates of one forward on the traced inputs.
        by_kind: the MACs of `conv`, `linear`, `attention`, `matmul` and `norm`.

    Example:
        >>> import ramify, torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> before, after = graph_cost(graph), graph_cost(graph, [ramify.Prune("0", 3)])
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
        """The MACs of convolutions and linear layers, which stand for the energy of a forward.

        Of one channel of a k×k convolution on maps of H×H pixels, that is k²·C_in·H², the 9·H² of
        a depthwise convolution behind it, and the columns of every layer that reads it.

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
    params, kinds = _count_all(graph, lambda term: new_size(term, changes))
    return Cost(params, sum(kinds.values()), kinds)


def _count_all(graph: ChannelGraph, size: Callable[[Term], Any]) -> tuple[Any, dict[str, Any]]:
    """(parameters, MACs by kind), in whatever numbers `size` gives for a resolved term."""
    buffers = {name for name, _ in graph.model.named_buffers()}
    # Under gates a tensor has another name than the graph knows it by.
    buffers |= {name.replace("parametrizations.", "").removesuffix(".original") for name in buffers}
    params = sum(
        math.prod(size(term) for term in terms)
        for name, terms in graph.dims.items()
        if name not in buffers
    )
    sizes = Sizes(graph, size)
    kinds: dict[str, Any] = {}
    for op in graph.tapes[0].ops:
        kind, macs = count(op, sizes)
        if kind:
            kinds[kind] = kinds.get(kind, 0) + macs
    return params, kinds


class Sizes:
    """Shapes of the tape's tensors, in whatever numbers `size` gives for a resolved term."""

    def __init__(self, graph: ChannelGraph, size: Callable[[Term], Any]) -> None:
        self._terms = graph.flow.history[0]
        self._size = size
        self._known: dict[int, tuple[Any, ...]] = {}

    def of(self, ref: Ref) -> tuple[Any, ...]:
        """The shape of a tensor."""
        if ref.index not in self._known:
            terms = self._terms[ref.index]
            self._known[ref.index] = tuple(self._size(resolve(term)) for term in terms)
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


def count(op: Op, sizes: Sizes) -> tuple[str, Any]:
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


def _convolution(op: Op, sizes: Sizes) -> Any:
    weight = sizes.of(op.args[1])
    moved: Sequence[Any] = sizes.of(op.args[0] if op.args[6] else op.results()[0])
    return math.prod(moved) * math.prod(weight[1:])


class _Polynomial:
    """A whole number that depends on widths: sorted numbers of groups -> coefficient."""

    def __init__(self, terms: Mapping[tuple[int, ...], int]) -> None:
        self.terms = terms

    def __add__(self, other: _Polynomial | int) -> _Polynomial:
        total = Counter(self.terms)
        total.update(other.terms if isinstance(other, _Polynomial) else {(): other})
        return _Polynomial(total)

    def __mul__(self, other: _Polynomial | int) -> _Polynomial:
        total: Counter[tuple[int, ...]] = Counter()
        factors = other.terms if isinstance(other, _Polynomial) else {(): other}
        for mine, count in self.terms.items():
            for theirs, times in factors.items():
                total[tuple(sorted(mine + theirs))] += count * times
        return _Polynomial(total)

    __radd__, __rmul__ = __add__, __mul__


class CostModel:
    """The cost of a traced model as polynomials in the widths of its groups.

    It gives what `graph_cost` gives, without walking the tape again.

    Args:
        graph: the traced model.

    Attributes:
        graph: the traced model.
        names: the groups' names, in the order of the graph.
        widths: (W,), their present widths.

    Example:
        >>> import ramify, torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> CostModel(graph).added([ramify.Split("0", 2), ramify.Prune("0", 5)]).params
        0
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self._number = {group.atom: number for number, group in enumerate(graph.groups)}
        self.names = [group.name for group in graph.groups]
        self.widths: Index = np.array([group.width for group in graph.groups], dtype=np.int64)
        # With polynomials in place of sizes, the count of parameters and MACs is one too.
        params, kinds = _count_all(graph, self._size)
        self._kinds = list(kinds)
        rows: list[Mapping[tuple[int, ...], int]] = [
            p.terms if isinstance(p, _Polynomial) else {(): p} for p in (params, *kinds.values())
        ]
        monomials = sorted({monomial for row in rows for monomial in row})
        longest = max(map(len, monomials), default=0)
        # A group beyond the last has width 1 and fills short monomials up: (K, P)
        filled = [m + (len(self.names),) * (longest - len(m)) for m in monomials]
        self._factors = np.array(filled, dtype=np.int64).reshape(len(monomials), longest)
        # (1 + kinds, K)
        self._rows = np.array([[row.get(m, 0) for m in monomials] for row in rows], dtype=np.int64)
        self._by_resource = {resource: self._row(resource) for resource in RESOURCES}

    def cost(self, widths: Index | None = None) -> Cost:
        """The cost at widths (W,); at the present ones by default."""
        widths = self.widths if widths is None else widths
        values = np.append(widths, 1)[self._factors].prod(axis=1)
        params, *macs = (self._rows @ values).tolist()
        return Cost(params, sum(macs), dict(zip(self._kinds, macs, strict=True)))

    def added(self, edits: Iterable[Edit]) -> Cost:
        """What edits that are possible add to the cost when they are made together."""
        widths = self.widths.copy()
        for name, change in growth(edits).items():
            widths[self._number[self.graph[name].atom]] += change
        return self.cost(widths) - self.cost()

    def tangent(
        self, resource: str, widths: NDArray[np.float64]
    ) -> tuple[float, NDArray[np.float64]]:
        """The amount of a resource at widths (W,), and its derivative by their logarithms (W,).

        Being a sum of monomials with positive coefficients, the amount is convex in the logarithms:
        this tangent lies nowhere above it.

        Args:
            resource: one of `RESOURCES`.
            widths: (W,), the width of each group.

        Returns:
            The amount, and the derivatives (W,).
        """
        each = self._by_resource[resource] * np.append(widths, 1.0)[self._factors].prod(axis=1)
        slopes = np.zeros(len(self.names) + 1)
        for factor in self._factors.T:
            np.add.at(slopes, factor, each)
        return float(each.sum()), slopes[:-1]

    def between(self, resource: str, widths: Index, first: int, second: int) -> NDArray[np.float64]:
        """The amount of a resource as a polynomial in the widths of two groups, the others held.

        Args:
            resource: one of `RESOURCES`.
            widths: (W,), the width of each group.
            first: number of a group.
            second: number of another.

        Returns:
            (P + 1, P + 1), the coefficient of each power of the first width and of the second.
        """
        held = np.append(widths, 1).astype(np.float64)
        held[[first, second]] = 1.0
        each = self._by_resource[resource] * held[self._factors].prod(axis=1)
        powers = tuple((self._factors == number).sum(axis=1) for number in (first, second))
        size = self._factors.shape[1] + 1
        coefficients = np.zeros((size, size))
        np.add.at(coefficients, powers, each)
        return coefficients

    def _row(self, resource: str) -> Index:
        """The coefficients (K,) of one of `RESOURCES`."""
        weights = [Cost(1, 0).of(resource)]
        weights += [Cost(0, 1, {kind: 1}).of(resource) for kind in self._kinds]
        row: Index = np.array(weights) @ self._rows
        return row

    def _size(self, term: Term) -> Any:
        """The size of a resolved term: a number, or a polynomial."""
        if isinstance(term, Atom):
            number = self._number.get(term)
            return term.size if number is None else _Polynomial({(number,): 1})
        if isinstance(term, Fixed):
            return term.size
        sizes = [self._size(part) for part in term.parts]
        return sum(sizes) if isinstance(term, Sum) else math.prod(sizes)


def growth(edits: Iterable[Edit]) -> dict[str, int]:
    """How many channels edits add to each group that they name."""
    total: Counter[str] = Counter()
    for edit in edits:
        total[edit.group] += len(edit.weights) - 1 if isinstance(edit, Split) else -1
    return dict(total)
