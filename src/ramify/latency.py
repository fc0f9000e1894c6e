"""Measured latency: of a model, of a traced model in another shape, and of one more channel.

A measurement carries noise: the median of repeated calls stands for it, its spread says how much.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ramify.edit import Edit, plan_edits
from ramify.errors import RamifyError
from ramify.trace import ChannelGraph, ChannelGroup
from ramify.trace.layout import Change, Changes, resized
from ramify.trace.recorder import call, tensors_of


@dataclass(frozen=True)
class Latency:
    """How long one forward takes, in milliseconds.

    Attributes:
        median: the median of the repeated calls.
        spread: the distance of their quartiles.
    """

    median: float
    spread: float


def measure(model: nn.Module, inputs: Any, *, repeats: int = 20, warmup: int = 3) -> Latency:
    """Time a model's forward in eval mode, without gradients, where its parameters lie.

    Args:
        model: any module whose forward runs.
        inputs: as `ramify.trace` takes them.
        repeats: calls to time, each to its end also on a GPU.
        warmup: calls before them.

    Returns:
        The latency.

    Raises:
        RamifyError: no call would be timed.

    Example:
        >>> measure(nn.Linear(4, 8), torch.randn(1, 4), repeats=3).median > 0
        True
    """
    if repeats < 1 or warmup < 0:
        raise RamifyError(
            f"a latency is measured in 1 or more calls after 0 or more to warm up, and got "
            f"repeats={repeats}, warmup={warmup}"
        )
    device = next((t.device for t in tensors_of(model).values()), torch.device("cpu"))
    times = []
    with _evaluating(model), torch.no_grad():
        for number in range(warmup + repeats):
            _finish(device)
            start = time.perf_counter()
            call(model, inputs)
            _finish(device)
            if number >= warmup:
                times.append(1e3 * (time.perf_counter() - start))
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Latency(median, high - low)


def measure_edited(
    graph: ChannelGraph, edits: Iterable[Edit] = (), *, repeats: int = 20, warmup: int = 3
) -> Latency:
    """Time a traced model as it would be after edits; it is as it was afterwards.

    Args:
        graph: the traced model.
        edits: what to suppose done.
        repeats: calls to time.
        warmup: calls before them.

    Returns:
        The latency on the inputs of the trace.
    """
    changes = plan_edits(graph, edits).changes
    return _measure_changed(graph, changes, repeats, warmup)


def prices(
    graph: ChannelGraph,
    groups: Iterable[str] | None = None,
    *,
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    repeats: int = 20,
) -> dict[str, float]:
    """What one more channel of each group adds to the latency, in milliseconds.

    The model is really resized to a few widths of one group at a time and timed; the price is the
    slope of the line through these points (least squares), and 0 where noise turns it negative.

    Args:
        graph: the traced model.
        groups: names of groups; all that can change by default.
        scales: widths to measure at, over the present one; those that the group cannot have are
            left out.
        repeats: calls to time at each width.

    Returns:
        The price by name of the group.

    Raises:
        RamifyError: fewer than two widths are left for a group.
    """
    if groups is None:
        chosen = [group for group in graph.groups if group.can_split or group.can_prune]
    else:
        chosen = [graph[name] for name in groups]
    out = {}
    for group in chosen:
        widths = _widths(group, scales)
        if len(widths) < 2:
            raise RamifyError(
                f"'{group.name}' has {group.width} channels, and a price takes two widths: give "
                f"more scales than {tuple(scales)}"
            )
        times = [_at_width(graph, group, width, repeats).median for width in widths]
        out[group.name] = max(0.0, float(np.polyfit(widths, times, 1)[0]))
    return out


def _widths(group: ChannelGroup, scales: Sequence[float]) -> list[int]:
    widths = {max(1, round(scale * group.width)) for scale in scales}
    least = 1 if group.can_prune else group.width
    most = max(widths) if group.can_split else group.width
    return sorted(width for width in widths if least <= width <= most)


def _at_width(graph: ChannelGraph, group: ChannelGroup, width: int, repeats: int) -> Latency:
    source = np.arange(width) % group.width
    return _measure_changed(graph, {group.atom: Change(source, np.ones(width))}, repeats, 3)


def _measure_changed(graph: ChannelGraph, changes: Changes, repeats: int, warmup: int) -> Latency:
    with resized(graph.model, graph.dims, graph.readers, graph.attributes, changes):
        return measure(graph.model, graph.inputs, repeats=repeats, warmup=warmup)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
