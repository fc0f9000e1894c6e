"""Measured latency: of a model, of a traced model in another shape, and per added channel.

Measurements are noisy, so a latency is the median of repeated calls, with their spread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
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
from ramify.tracing.indexing import Change, Changes
from ramify.tracing.recorder import arguments, copied, evaluating
from ramify.tracing.resizing import resized
from ramify.tracing.untouched import untouched


@dataclass(frozen=True)
class Latency:
    """How long one forward takes, in milliseconds.

    Attributes:
        median: the median of the repeated calls.
        spread: the interquartile range of the calls.
        repeats: how many calls were timed.
        device: the device of the parameters.
        threads: torch's number of threads, which affects latency on the CPU.

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


@contextlib.contextmanager
def undisturbed(model: nn.Module, *others: Any) -> Iterator[None]:
    """Run the block in eval mode without gradients, then restore the model and the random states.

    Attention keeps its fused form, which is what a user runs and what is to be timed.

    Args:
        model: the model.
        *others: other inputs of the run, which are restored too.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    with untouched(model, *others), evaluating(model):
        torch.backends.mha.set_fastpath_enabled(fused)
        yield


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
    """Time a model's forward in eval mode, without gradients, on the device of its parameters.

    The model is left as it was, even if its forward counts its runs or fills a cache.

    Each call gets its own copies of the inputs, made before timing starts. On a GPU the time is
    measured between two events of the current stream, with the device idle before the first. On the
    CPU with one torch thread it is the processor time of that thread, so other load on the machine
    is not counted.

    Args:
        model: any module whose forward runs.
        inputs: as `ramify.trace` takes them.
        module: the name of a module of the model to time alone, on the inputs that it gets when the
            model runs; if it runs several times, all its calls are timed together.
        repeats: the number of timed calls.
        warmup: the number of calls before them.
        clock: the clock to time with; by default that of the device.

    Returns:
        The latency.

    Raises:
        RamifyError: `repeats` or `warmup` is too small, or the module does not exist or does not
            run.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> measure(net, torch.randn(1, 4), repeats=3).median > 0
        True
        >>> measure(net, torch.randn(1, 4), module="1", repeats=3).repeats
        3
    """
    if repeats < 1 or warmup < 0:
        raise RamifyError(
            f"repeats must be at least 1 and warmup at least 0, but got "
            f"repeats={repeats}, warmup={warmup}"
        )
    device = device_of(model)
    clock, times = clock or clock_of(device), []
    with undisturbed(model, inputs):
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
    """A module of a model, and the arguments it is called with when the model runs once."""
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
    """Time a traced model as it would be after edits; the model is left unchanged.

    Args:
        graph: the traced model.
        edits: the edits to time.
        repeats: the number of timed calls.
        warmup: the number of calls before them.
        clock: the clock to time with; by default that of the device.

    Returns:
        The latency on the inputs that were traced.

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

    The model is resized to a few widths of one group at a time and timed. The price is the slope of
    the least-squares line through these points, or 0 where noise makes the slope negative.

    Args:
        graph: the traced model.
        groups: names of groups; by default all that can change.
        scales: the widths to measure at, relative to the current width; widths that the group
            cannot have are left out.
        repeats: the number of timed calls at each width.
        clock: the clock to time with; by default that of the device.

    Returns:
        The price by group name.

    Raises:
        RamifyError: fewer than two widths are possible for a group.

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
    most = max(widths) if group.can_split else group.width
    return sorted(width for width in widths if group.narrowest <= width <= most)


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
