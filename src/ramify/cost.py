"""What a model costs, and what it would cost after edits: parameters and multiply-accumulates.

One MAC is one multiplication with its addition, or two FLOPs. Sizes come from the labelled tape, so
an edit is priced without being applied. Sizes, and so costs, are polynomials in the widths of the
groups. `CostModel` compiles these polynomials once, for callers that price many shapes.

Shape letters: `W` groups, `K` monomials, `P` the largest number of widths in one monomial.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ramify.arguments import arguments_checked
from ramify.edit import BlockEdit, Drop, Edit, Insert, Split, plan_edits
from ramify.edit.block_edits import plan_blocks
from ramify.tracing import ChannelGraph, trace
from ramify.tracing.blocks import Block
from ramify.tracing.dims import Atom, Fixed, Sum, Term, resolve
from ramify.tracing.groups import check_graph
from ramify.tracing.indexing import Index, new_size
from ramify.tracing.operation_cost import RESOURCES, Cost, counted_macs
from ramify.tracing.recorder import Ref

__all__ = [
    "RESOURCES",
    "Cost",
    "CostModel",
    "Sizes",
    "counted_macs",
    "graph_cost",
    "growth",
    "model_cost",
]


def model_cost(model: nn.Module, inputs: Any) -> Cost:
    """Parameters and MACs of a model on these inputs.

    Args:
        model: any module whose forward runs.
        inputs: as `ramify.trace` takes them; MACs are counted over all samples in the inputs.

    Returns:
        The cost.

    Example:
        >>> import torch
        >>> model_cost(nn.Linear(4, 8), torch.randn(1, 4)).macs
        32
    """
    return graph_cost(trace(model, inputs))


@arguments_checked
def graph_cost(graph: ChannelGraph, edits: Iterable[Edit | BlockEdit] = ()) -> Cost:
    """The cost that a traced model would have after some edits, without applying them.

    Convolutions, matrix products and scaled-dot-product attention (q kᵀ and its product with v)
    count their MACs. A norm counts one MAC per entry for each pass over it: scale and shift, and,
    where statistics are computed, mean and variance.

    Args:
        graph: the traced model.
        edits: the edits to price.

    Returns:
        The cost on the inputs that were traced.

    Raises:
        RamifyError: an edit is impossible.
    """
    given = list(edits)
    channels = [edit for edit in given if not isinstance(edit, (Drop, Insert))]
    plans = plan_blocks(graph, [edit for edit in given if isinstance(edit, (Drop, Insert))])
    more = [(block, -1) for plan in plans for block in plan.drops]
    more += [(block, 1) for plan in plans for block in plan.inserts]
    changes = plan_edits(graph, channels).changes
    params, kinds = _count_all(graph, lambda term: new_size(term, changes), more)
    return Cost(params, sum(kinds.values()), kinds)


def _count_all(
    graph: ChannelGraph, size: Callable[[Term], Any], more: Sequence[tuple[Block, int]] = ()
) -> tuple[Any, dict[str, Any]]:
    """(parameters, MACs by kind), in the number type that `size` returns for a resolved term.

    Args:
        graph: the traced model.
        size: gives the size of a term.
        more: blocks whose count changes, each with the number of copies to add.

    Returns:
        The parameters and the MACs by kind.
    """
    times: Counter[str | int] = Counter()
    for block, number in more:
        for counted in (*block.own, *range(*block.operations)):
            times[counted] += number
    buffers = {name for name, _ in graph.model.named_buffers()}
    # In a gated model a tensor has a different name than in the graph.
    buffers |= {name.replace("parametrizations.", "").removesuffix(".original") for name in buffers}
    params = sum(
        math.prod(size(term) for term in terms) * (1 + times[name])
        for name, terms in graph.dims.items()
        if name not in buffers
    )
    sizes = Sizes(graph, size)
    kinds: dict[str, Any] = {}
    for position, op in enumerate(graph.tapes[0].ops):
        kind, macs = counted_macs(op, sizes.of)
        if kind:
            kinds[kind] = kinds.get(kind, 0) + macs * (1 + times[position])
    return params, kinds


class Sizes:
    """Shapes of the tape's tensors, in the number type that `size` returns for a resolved term."""

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


class _Polynomial:
    """An integer that depends on widths: sorted group numbers -> coefficient."""

    def __init__(self, terms: Mapping[tuple[int, ...], int]) -> None:
        self.terms = terms

    def __add__(self, other: _Polynomial | int) -> _Polynomial:
        total = Counter(self.terms)
        total.update(other.terms if isinstance(other, _Polynomial) else {(): other})
        return _Polynomial(total)

    def __mul__(self, other: _Polynomial | int) -> _Polynomial:
        total: Counter[tuple[int, ...]] = Counter()
        factors = other.terms if isinstance(other, _Polynomial) else {(): other}
        for mine, number in self.terms.items():
            for theirs, times in factors.items():
                total[tuple(sorted(mine + theirs))] += number * times
        return _Polynomial(total)

    __radd__, __rmul__ = __add__, __mul__


class CostModel:
    """The cost of a traced model as polynomials in the widths of its groups.

    It gives the same results as `graph_cost`, without walking the tape again.

    Args:
        graph: the traced model.

    Attributes:
        graph: the traced model.
        names: the groups' names, in the order of the graph.
        widths: (W,), their current widths.

    Example:
        >>> import ramify, torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> CostModel(graph).added([ramify.Split("0", 2), ramify.Prune("0", 5)]).params
        0
    """

    def __init__(self, graph: ChannelGraph) -> None:
        check_graph(graph)
        self.graph = graph
        self._number = {group.atom: number for number, group in enumerate(graph.groups)}
        self.names = [group.name for group in graph.groups]
        self.widths: Index = np.array([group.width for group in graph.groups], dtype=np.int64)
        # With polynomials as sizes, the counts of parameters and MACs are polynomials too.
        params, kinds = _count_all(graph, self._size)
        self._kinds = list(kinds)
        rows: list[Mapping[tuple[int, ...], int]] = [
            p.terms if isinstance(p, _Polynomial) else {(): p} for p in (params, *kinds.values())
        ]
        monomials = sorted({monomial for row in rows for monomial in row})
        longest = max(map(len, monomials), default=0)
        # An extra group of width 1 pads short monomials: (K, P)
        filled = [m + (len(self.names),) * (longest - len(m)) for m in monomials]
        self._factors = np.array(filled, dtype=np.int64).reshape(len(monomials), longest)
        # (1 + kinds, K)
        self._rows = np.array([[row.get(m, 0) for m in monomials] for row in rows], dtype=np.int64)
        self._by_resource = {resource: self._row(resource) for resource in RESOURCES}

    def cost(self, widths: Index | None = None) -> Cost:
        """The cost at widths (W,); by default at the current widths."""
        widths = self.widths if widths is None else widths
        values = np.append(widths, 1)[self._factors].prod(axis=1)
        params, *macs = (self._rows @ values).tolist()
        return Cost(params, sum(macs), dict(zip(self._kinds, macs, strict=True)))

    def added(self, edits: Iterable[Edit]) -> Cost:
        """The cost that these edits add together; the edits must be possible."""
        widths = self.widths.copy()
        for name, change in growth(edits).items():
            widths[self._number[self.graph[name].atom]] += change
        return self.cost(widths) - self.cost()

    def tangent(
        self, resource: str, widths: NDArray[np.float64]
    ) -> tuple[float, NDArray[np.float64]]:
        """The amount of a resource at widths (W,), and its derivatives by the log-widths (W,).

        The amount is a sum of monomials with positive coefficients, so it is convex in the
        log-widths, and this tangent is a lower bound.

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
        """The amount of a resource as a polynomial in the widths of two groups, the others fixed.

        Args:
            resource: one of `RESOURCES`.
            widths: (W,), the width of each group.
            first: the number of a group.
            second: the number of another group.

        Returns:
            (P + 1, P + 1), the coefficient for each power of the first and of the second width.
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
    """The number of channels that the edits add to each group they name."""
    total: Counter[str] = Counter()
    for edit in edits:
        total[edit.group] += len(edit.weights) - 1 if isinstance(edit, Split) else -1
    return dict(total)
