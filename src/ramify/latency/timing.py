"""Measured latency: of a model, of a traced model in another shape, and of one more channel.

A measurement carries noise: the median of repeated calls stands for it, its spread says how much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ramify.arguments import arguments_checked
from ramify.edit import Edit, plan_edits
from ramify.errors import RamifyError
from ramify.latency.clock import Clock, clock_of, device_of
from ramify.tracing import ChannelGraph, ChannelGroup, check_ungated
from ramify.tracing.indexing import Change, Changes, resized
from ramify.tracing.recorder import arguments, copied, evaluating


@dataclass(frozen=True)
class Latency:
    """How long one forward takes, in milliseconds.

    Attributes:
        median: the median of the repeated calls.
        spread: the distance of their quartiles.
        repeats: how many calls were timed.
        device: where the parameters lie.
        threads: of torch, which a latency on the CPU depends on.

    Example:
        >>> found = measure(nn.Linear(4, 8), torch.randn(1, 4), repeats=5)
        >>> found.median > 0, found.repeats, found.device
        (True, 5, 'cpu')
    """

    median: float
    spread: float
    repeats: int = 1
    device: str = "cpu"
    threads: int = 1


Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments."""


@arguments_checked
def measure(
    model: nn.Module,
    inputs: Any,
    *,
    module: str | None = None,
    repeats: int = 20,
    warmup: int = 3,
    clock: Clock | None = None,
) -> Latency:
    """Time a model's forward in eval mode, without gradients, where its parameters lie.

    Each call gets copies of the inputs, made before its time begins. On a GPU the time is that
    between two events of the current stream, the device being idle before; on the CPU, where torch
    computes in one thread, it is the processor time of that thread, so that what else the machine
    does is not counted.

    Args:
        model: any module whose forward runs.
        inputs: as `ramify.trace` takes them.
        module: the name of a module of the model to time alone, on the inputs that it gets when the
            model runs; where it runs several times, all its calls together.
        repeats: calls to time.
        warmup: calls before them.
        clock: what tells the time; by default that of the device.

    Returns:
        The latency.

    Raises:
        RamifyError: no call would be timed, or there is no such module, or it does not run.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> measure(net, torch.randn(1, 4), repeats=3).median > 0
        True
        >>> measure(net, torch.randn(1, 4), module="1", repeats=3).repeats
        3
    """
    if repeats < 1 or warmup < 0:
        raise RamifyError(
            f"a latency is measured in 1 or more calls after 0 or more to warm up, and got "
            f"repeats={repeats}, warmup={warmup}"
        )
    device = device_of(model)
    clock, times = clock or clock_of(device), []
    with evaluating(model):
        timed, calls = model, [arguments(inputs)]
        if module is not None:
            timed, calls = _calls_of(model, inputs, module)
        for number in range(warmup + repeats):
            copies = copied(calls)
            clock.ready()
            start = clock.mark()
            for args, named in copies:
                timed(*args, **named)
            end = clock.mark()
            if number >= warmup:
                times.append(clock.between(start, end))
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Latency(median, high - low, repeats, str(device), torch.get_num_threads())


def _calls_of(model: nn.Module, inputs: Any, name: str) -> tuple[nn.Module, list[Call]]:
    """A module of a model, and what it is called with when the model runs once."""
    modules = dict(model.named_modules())
    if name not in modules:
        raise RamifyError(f"the model has no module '{name}': see model.named_modules()")
    calls: list[Call] = []

    def note(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.append(copied((args, named)))

    with modules[name].register_forward_pre_hook(note, with_kwargs=True):
        args, named = copied(arguments(inputs))
        model(*args, **named)
    if not calls:
        raise RamifyError(f"module '{name}' does not run with these inputs: there is no time of it")
    return modules[name], calls


def measure_edited(
    graph: ChannelGraph,
    edits: Iterable[Edit] = (),
    *,
    repeats: int = 20,
    warmup: int = 3,
    clock: Clock | None = None,
) -> Latency:
    """Time a traced model as it would be after edits; it is as it was afterwards.

    Args:
        graph: the traced model.
        edits: what to suppose done.
        repeats: calls to time.
        warmup: calls before them.
        clock: what tells the time; by default that of the device.

    Returns:
        The latency on the inputs of the trace.

    Example:
        >>> import ramify
        >>> graph = ramify.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> measure_edited(graph, [ramify.Split("0", 3)], repeats=3).median > 0
        True
    """
    changes = plan_edits(graph, edits).changes
    return _measure_changed(graph, changes, repeats, warmup, clock)


def prices(
    graph: ChannelGraph,
    groups: Iterable[str] | None = None,
    *,
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    repeats: int = 20,
    clock: Clock | None = None,
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
        clock: what tells the time; by default that of the device.

    Returns:
        The price by name of the group.

    Raises:
        RamifyError: fewer than two widths are left for a group.

    Example:
        >>> import ramify
        >>> graph = ramify.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> each = prices(graph, repeats=3)
        >>> list(each), each["0"] >= 0
        (['0'], True)
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
        times = [_at_width(graph, group, width, repeats, clock).median for width in widths]
        out[group.name] = max(0.0, float(np.polyfit(widths, times, 1)[0]))
    return out


def _widths(group: ChannelGroup, scales: Sequence[float]) -> list[int]:
    widths = {max(1, round(scale * group.width)) for scale in scales}
    least = 1 if group.can_prune else group.width
    most = max(widths) if group.can_split else group.width
    return sorted(width for width in widths if least <= width <= most)


def _at_width(
    graph: ChannelGraph, group: ChannelGroup, width: int, repeats: int, clock: Clock | None
) -> Latency:
    source = np.arange(width) % group.width
    return _measure_changed(graph, {group.atom: Change(source, np.ones(width))}, repeats, 3, clock)


def _measure_changed(
    graph: ChannelGraph, changes: Changes, repeats: int, warmup: int, clock: Clock | None
) -> Latency:
    check_ungated(graph.model)
    with resized(graph.model, graph.indexing, changes):
        return measure(graph.model, graph.inputs, repeats=repeats, warmup=warmup, clock=clock)
