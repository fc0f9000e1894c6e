"""Observed latency: a traced model run in some shapes, timed operation by operation.

Shape letters: `W` groups of the graph, `O` operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils._python_dispatch import TorchDispatchMode

from ramify.errors import RamifyError
from ramify.latency.clock import Clock, clock_of, device_of
from ramify.latency.timing import undisturbed
from ramify.tracing import ChannelGraph, ChannelGroup, check_ungated
from ramify.tracing.indexing import Change, Floats, Index
from ramify.tracing.recorder import arguments, call, copied, eager
from ramify.tracing.resizing import resized
from ramify.tracing.untouched import untouched

CALLS = 2  # whole forwards timed at each visit of a shape, besides the one timed by operation


@dataclass(frozen=True)
class Sample:
    """The timings of a traced model in one shape.

    Attributes:
        widths: (W,), the width of each group.
        ops: (O,) milliseconds of each operation of the trace.
        total: milliseconds of the whole forward.

    Example:
        >>> import numpy as np
        >>> sample = Sample(widths=np.array([8, 4]), ops=np.array([0.5, 0.25]), total=1.0)
        >>> float(sample.ops.sum() / sample.total)  # the share that single operations explain
        0.75
    """

    widths: Index
    ops: Floats
    total: float


def draw_shapes(
    graph: ChannelGraph, count: int, scales: tuple[float, float] = (0.25, 1.5), seed: int = 0
) -> list[Index]:
    """Random widths of the groups that can change, some arbitrary and some multiples of 8.

    Args:
        graph: the traced model.
        count: the number of shapes; the first is the current one.
        scales: the smallest and the largest width, relative to the current width of each group.
        seed: the seed of the random widths.

    Returns:
        For each shape, the width of each group (W,).

    Raises:
        RamifyError: a scale is not above 0, or the smallest is larger than the largest.

    Example:
        >>> import ramify, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> [len(widths) == len(graph.groups) for widths in draw_shapes(graph, 3)]
        [True, True, True]
    """
    if not 0 < scales[0] <= scales[1] < np.inf:
        raise RamifyError(
            "scales must be the smallest and the largest width relative to the current one, such "
            f"as (0.25, 1.5), but got {tuple(scales)}"
        )
    draw = np.random.default_rng(seed)
    now = np.array([group.width for group in graph.groups], dtype=np.int64)
    shapes = [now]
    low, high = np.log(scales[0]), np.log(scales[1])
    for number in range(1, count):
        # Half of the spread is common to all groups, so that the total size varies too.
        middle = draw.uniform(low, high)
        each = 0.5 * middle + 0.5 * draw.uniform(low, high, size=len(now))
        widths = np.maximum(np.rint(now * np.exp(each)), 1).astype(np.int64)
        if number % 2:
            widths = np.maximum(np.rint(widths / 8).astype(np.int64) * 8, np.minimum(widths, 8))
        shapes.append(np.array([_allowed(g, w) for g, w in zip(graph.groups, widths, strict=True)]))
    return shapes


def _allowed(group: ChannelGroup, width: int) -> int:
    """The nearest width that edits can give a group."""
    return int(max(group.narrowest, width if group.can_split else min(width, group.width)))


class _Stopwatch(TorchDispatchMode):
    """Marks the time before and after each operation."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare torch importing its compiler (seconds) to disable it here; `eager` disables it."""
        return False

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._marks: list[tuple[Any, Any]] = []
        self.names: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Time the operation with a mark before and after it."""
        start = self._clock.mark()
        result = func(*args, **(kwargs or {}))
        self._marks.append((start, self._clock.mark()))
        self.names.append(str(func._schema.name))
        return result

    def times(self) -> Floats:
        """(O,) milliseconds of each operation."""
        return np.array([self._clock.between(start, end) for start, end in self._marks])


def observe(
    graph: ChannelGraph, shapes: Sequence[Index], *, rounds: int = 5, clock: Clock | None = None
) -> list[Sample]:
    """Time a traced model in several shapes, operation by operation and as a whole.

    Each round times every shape once, in a new random order, so that other load on the machine
    affects all shapes alike. A sample contains the medians. The model is left unchanged.

    Args:
        graph: the traced model.
        shapes: for each sample, the width of each group (W,).
        rounds: how often to time each shape.
        clock: the clock to time with; by default that of the device.

    Returns:
        The samples, in the order of the shapes.

    Raises:
        RamifyError: `rounds` is below 1, a shape does not have one width of at least 1 for each
            group, the model is gated, or the forward runs other operations at other widths.

    Example:
        >>> import ramify, torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> first, *_ = observe(graph, draw_shapes(graph, 3), rounds=1)
        >>> first.total > 0, len(first.ops) == len(graph.tapes[0].ops)
        (True, True)
    """
    if rounds < 1:
        raise RamifyError(f"rounds must be at least 1, but got rounds={rounds}")
    for shape in shapes:
        if np.shape(shape) != (len(graph.groups),) or np.min(shape, initial=1) < 1:
            raise RamifyError(
                f"a shape must have one width of at least 1 for each of the {len(graph.groups)} "
                f"groups in graph.groups, but got {list(shape)}"
            )
    check_ungated(graph.model)
    ops: list[list[Floats]] = [[] for _ in shapes]
    totals: list[list[float]] = [[] for _ in shapes]
    draw, clock = np.random.default_rng(0), clock or clock_of(device_of(graph.model))
    for _ in range(rounds):
        for number in draw.permutation(len(shapes)).tolist():
            each, whole = _visit(graph, shapes[number], clock)
            ops[number].append(each)
            totals[number] += whole
    return [
        Sample(shape, np.median(np.array(each), axis=0), float(np.median(whole)))
        for shape, each, whole in zip(shapes, ops, totals, strict=True)
    ]


def _visit(graph: ChannelGraph, widths: Index, clock: Clock) -> tuple[Floats, list[float]]:
    """One run timed by operation (O,), and several whole runs, after one warm-up run."""
    model = graph.model
    changes = {
        group.atom: Change(np.arange(width) % group.width, np.ones(width))
        for group, width in zip(graph.groups, widths.tolist(), strict=True)
        if width != group.width
    }
    whole = []
    with (
        resized(model, graph.indexing, changes),
        undisturbed(model),
    ):
        for number in range(1 + CALLS):
            args, named = copied(arguments(graph.inputs))
            clock.ready()
            start = clock.mark()
            model(*args, **named)
            end = clock.mark()
            if number:
                whole.append(clock.between(start, end))
        clock.ready()
        with untouched(model), eager(), _Stopwatch(clock) as watch:
            call(model, graph.inputs)
        each = watch.times()
    if watch.names != [op.name for op in graph.tapes[0].ops]:
        raise RamifyError(
            "the forward runs other operations than when it was traced, so that there is no table "
            "of them: measure the shapes of interest by measure_edited"
        )
    return each, whole
