"""Predicted latency: a table of operation times by width, learned from a few shapes.

Every operation of the trace is timed in some shapes of random widths. Operations that differ only
in widths share one table: a sum, with non-negative weights, of the operation's multiplications and
of the entries that it reads and writes, each also with all widths rounded up to the hardware's
vector sizes. The latency of the forward is the sum over its operations, scaled to match the whole
forwards that were timed as well.

Shape letters: `W` groups of the graph, `O` operations, `F` features, `S` shapes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils._pytree import tree_leaves

from ramify.arguments import arguments_checked
from ramify.cost import Sizes, counted_macs, growth
from ramify.edit import Edit
from ramify.errors import RamifyError
from ramify.latency.clock import Clock
from ramify.latency.samples import Sample, draw_shapes, observe
from ramify.tracing import ChannelGraph
from ramify.tracing.dims import Atom, Fixed, Sum, Term
from ramify.tracing.indexing import Floats, Index
from ramify.tracing.recorder import Op

VECTORS = (1, 8, 16)  # what widths are rounded up to
REACH = 16  # channels to both sides that a slope is taken over, or more: across the steps
FOLDS = 5


class LatencyModel:
    """Predicts the latency of a traced model at any widths of its groups, learned from samples.

    Args:
        graph: the traced model.
        samples: timings in several shapes.

    Attributes:
        graph: the traced model.
        names: the groups' names, in the order of the graph.
        widths: (W,), the widths at which it was traced.
        error: the mean relative error on held-out samples, by 5-fold cross-validation.

    Raises:
        RamifyError: fewer than two samples.

    Example:
        >>> import ramify, torch
        >>> from ramify import latency
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> samples = latency.observe(graph, latency.draw_shapes(graph, 6), rounds=1)
        >>> predicted = latency.LatencyModel(graph, samples)
        >>> predicted.at({"0": 16}) > 0, predicted.edited([ramify.Split("0", 3)]) > 0
        (True, True)
    """

    def __init__(self, graph: ChannelGraph, samples: Sequence[Sample]) -> None:
        if len(samples) < 2:
            raise RamifyError(f"a latency model needs at least 2 shapes, but got {len(samples)}")
        self._set_graph(graph)
        features = self._operations.features(np.array([sample.widths for sample in samples]))
        misses = []
        for fold in range(min(FOLDS, len(samples))):
            held = np.arange(len(samples)) % FOLDS == fold
            rest = [sample for sample, out in zip(samples, held, strict=True) if not out]
            self._fit(features[~held], rest)
            totals = [sample.total for sample, out in zip(samples, held, strict=True) if out]
            misses += np.abs(self._totals(features[held]) / totals - 1.0).tolist()
        self.error = float(np.mean(misses))
        self._fit(features, samples)

    def at(self, widths: Mapping[str, int] | Index) -> float:
        """The latency of a forward, in milliseconds.

        Args:
            widths: the width of some groups, by any name that `graph[...]` takes, the others as
                traced; or the widths of all groups, (W,).

        Returns:
            The predicted latency.
        """
        if isinstance(widths, Mapping):
            shape = self.widths.copy()
            for name, width in widths.items():
                shape[self.names.index(self.graph[name].name)] = width
            widths = shape
        return float(self.at_each(widths[None])[0])

    def at_each(self, shapes: Index) -> Floats:
        """The latency of a forward in each of several shapes (S, W), in milliseconds: (S,)."""
        return self._totals(self._operations.features(shapes))

    def edited(self, edits: Iterable[Edit]) -> float:
        """The latency of a forward after edits that are not applied, in milliseconds."""
        shape = self.widths.copy()
        for name, more in growth(edits).items():
            shape[self.names.index(self.graph[name].name)] += more
        return self.at(shape)

    def on(self, graph: ChannelGraph) -> LatencyModel:
        """The same tables for another trace of the network, for example after edits.

        Args:
            graph: a trace on inputs of the same size.

        Returns:
            The latency model of that graph.

        Raises:
            RamifyError: the graph has an operation that was not timed.
        """
        if graph is self.graph:
            return self
        other = copy.copy(self)
        other._set_graph(graph)
        if not set(other._operations.kinds) <= set(self._tables):
            raise RamifyError(
                "the graph has operations that this latency was not learned from: learn it from "
                "that graph"
            )
        return other

    def _set_graph(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self.names = [group.name for group in graph.groups]
        self.widths: Index = np.array([group.width for group in graph.groups], dtype=np.int64)
        self._operations = _Operations(graph)

    def _fit(self, features: Floats, samples: Sequence[Sample]) -> None:
        times, totals = (
            np.array([sample.ops for sample in samples]),
            np.array([sample.total for sample in samples]),
        )
        self._tables: dict[Hashable, Floats] = {}
        for kind, numbers in self._operations.kinds.items():
            rows = features[:, numbers].reshape(-1, features.shape[-1])
            self._tables[kind] = _table(rows, times[:, numbers].reshape(-1))
        sums, ones = self._operations.sums(features, self._tables), np.ones(len(samples))
        # Timing each operation has an overhead, so the constant may be below 0.
        slope, more, less = _table(np.stack([sums, ones, -ones], axis=1), totals).tolist()
        self._line = (slope, more - less)

    def _totals(self, features: Floats) -> Floats:
        slope, rest = self._line
        return np.maximum(slope * self._operations.sums(features, self._tables) + rest, 0.0)


def slopes(predicted: LatencyModel, widths: Index) -> Floats:
    """What one more channel of each group adds to the predicted latency near widths (W,): (W,)."""
    reach = np.maximum(widths // 4, REACH)
    low = np.maximum(widths - reach, 1)
    more = predicted.at_each(widths + np.diag(reach))
    less = predicted.at_each(widths - np.diag(widths - low))
    return np.maximum((more - less) / (widths + reach - low), 0.0)


def _table(rows: Floats, times: Floats) -> Floats:
    """Non-negative weights (F,) for the features (S, F): least squares on relative errors."""
    from scipy.optimize import nnls  # slow to import, and `import ramify` does not need it

    times = np.maximum(times, 1e-6)  # a nanosecond: what a clock may take for nothing
    size = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    weights, _ = nnls(rows / size / times[:, None], np.ones(len(times)))
    return np.asarray(weights / size)


class _Operations:
    """The operations of a trace, and the work of each as a function of the widths."""

    def __init__(self, graph: ChannelGraph) -> None:
        self._ops = graph.tapes[0].ops
        self._graph = graph
        self._number = {group.atom: number for number, group in enumerate(graph.groups)}
        self.kinds: dict[Hashable, list[int]] = {}
        shapes = Sizes(graph, self._pattern)
        for number, op in enumerate(self._ops):
            self.kinds.setdefault(_kind(op, shapes), []).append(number)

    def features(self, shapes: Index) -> Floats:
        """(S, O, F) for shapes (S, W): a constant, and MACs, reads and writes by vector size."""
        out = np.ones((len(shapes), len(self._ops), 1 + 3 * len(VECTORS)))
        for place, vector in enumerate(VECTORS):
            widths = (-(-shapes // vector) * vector).astype(np.float64)
            sizes = Sizes(self._graph, self._sizes(widths))
            for number, op in enumerate(self._ops):
                for column, amount in enumerate(_work(op, sizes), start=1 + 3 * place):
                    out[:, number, column] = amount
        return out

    def sums(self, features: Floats, tables: Mapping[Hashable, Floats]) -> Floats:
        """(S,) milliseconds of all operations together."""
        each = [features[:, numbers].sum(1) @ tables[kind] for kind, numbers in self.kinds.items()]
        return np.asarray(np.sum(each, axis=0))

    def _sizes(self, widths: Floats) -> Callable[[Term], Any]:
        """The size of a resolved term at widths (S, W): (S,), or a constant."""

        def size(term: Term) -> Any:
            if isinstance(term, Fixed):
                return term.size
            if isinstance(term, Atom):
                number = self._number.get(term)
                return term.size if number is None else widths[:, number]
            sizes = [size(part) for part in term.parts]
            return sum(sizes) if isinstance(term, Sum) else math.prod(sizes)

        return size

    def _pattern(self, term: Term) -> Hashable:
        """A size without its group widths: what operations of one table have in common."""
        if isinstance(term, Atom):
            return "width" if term in self._number else term.size
        if isinstance(term, Fixed):
            return term.size
        return (type(term).__name__, *(self._pattern(part) for part in term.parts))


def _kind(op: Op, shapes: Sizes) -> Hashable:
    """An operation without its group widths: the sizes tell strides and kernels."""
    flags = [leaf for leaf in tree_leaves((op.args, op.kwargs)) if isinstance(leaf, bool)]
    return op.name, tuple(flags), tuple(shapes.of(ref) for ref in (*op.inputs(), *op.results()))


def _work(op: Op, sizes: Sizes) -> tuple[Any, Any, Any]:
    """Multiplications, entries read, entries written."""
    _, macs = counted_macs(op, sizes.of)
    read = sum(math.prod(sizes.of(ref)) for ref in op.inputs())
    written = sum(math.prod(sizes.of(ref)) for ref in op.results())
    return macs, read, written


@arguments_checked
def learn(
    graph: ChannelGraph,
    *,
    shapes: int = 32,
    scales: tuple[float, float] = (0.25, 1.5),
    rounds: int = 3,
    seed: int = 0,
    clock: Clock | None = None,
) -> LatencyModel:
    """Learn to predict a traced model's latency at any widths, on the device that it is on.

    Shapes are drawn at random and timed with `observe`, which takes about 4 × `shapes` × `rounds`
    forwards.

    Args:
        graph: the traced model.
        shapes: the number of shapes to time, the current one included.
        scales: the smallest and the largest width, relative to the current width of each group.
        rounds: how often to time each shape.
        seed: the seed of the random shapes.
        clock: the clock to time with; by default that of the device.

    Returns:
        The latency model; its `error` is the error on shapes that it was not learned from.

    Raises:
        RamifyError: no group can change its width.

    Example:
        >>> import ramify, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> found = learn(ramify.trace(net, torch.randn(1, 4)), shapes=4, rounds=1)
        >>> found.at({"0": 16}) > 0
        True
    """
    if not any(group.can_split or group.can_prune for group in graph.groups):
        raise RamifyError("no group of this model can change its width: see print(graph)")
    drawn = draw_shapes(graph, shapes, scales, seed)
    return LatencyModel(graph, observe(graph, drawn, rounds=rounds, clock=clock))
