"""Clocks: they read the time at points of a run, on the device that computes.

`torch.utils.benchmark` times whole statements with the host clock. That is not enough here: inputs
are copied before each call, which must not count; single operations are timed inside a forward; and
on a busy machine the processor time of one thread is needed.
"""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

import torch
from torch import nn

from ramify.tracing.recorder import tensors_of


class Clock(Protocol):
    """Marks points in time and returns the time between two of them.

    Example:
        >>> from ramify import latency
        >>> class Counted:  # the same number of milliseconds everywhere, as a test may want
        ...     now = 0
        ...     def ready(self): ...
        ...     def mark(self):
        ...         self.now += 1
        ...         return self.now
        ...     def between(self, start, end):
        ...         return float(end - start)
        >>> latency.measure(nn.Linear(4, 8), torch.randn(1, 4), clock=Counted()).median
        1.0
    """

    def ready(self) -> None:
        """Wait until the device is idle."""
        ...

    def mark(self) -> Any:
        """A point in time: when all work submitted to the device so far is done."""
        ...

    def between(self, start: Any, end: Any) -> float:
        """Milliseconds from one mark to a later one."""
        ...


class HostClock:
    """The clock of the host; on other devices it synchronises at each mark.

    Args:
        device: the device that computes.

    Example:
        >>> from ramify import latency
        >>> clock = latency.HostClock(torch.device("cpu"))  # counts what others do, too
        >>> latency.measure(nn.Linear(4, 8), torch.randn(1, 4), repeats=3, clock=clock).repeats
        3
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def ready(self) -> None:
        """Wait until the device is idle."""
        if self._device.type != "cpu":
            torch.get_device_module(self._device).synchronize()

    def mark(self) -> float:
        """Seconds since an arbitrary point."""
        self.ready()
        return time.perf_counter()

    def between(self, start: float, end: float) -> float:
        """Milliseconds from one mark to a later one."""
        return 1e3 * (end - start)


class ThreadClock:
    """The processor time of this thread, which does not count other work on a busy machine.

    Where torch computes in one thread on the CPU, it equals the latency on an idle machine, and it
    is the default there.

    Example:
        >>> from ramify import latency
        >>> model, x = nn.Linear(4, 8), torch.randn(1, 4)
        >>> latency.measure(model, x, repeats=3, clock=latency.ThreadClock()).repeats
        3
    """

    def ready(self) -> None:
        """Return at once: there is nothing to wait for."""

    def mark(self) -> float:
        """Seconds since an arbitrary point."""
        return time.thread_time()

    def between(self, start: float, end: float) -> float:
        """Milliseconds from one mark to a later one."""
        return 1e3 * (end - start)


class CudaClock:
    """Events on the current stream of a GPU, so that a mark does not synchronise."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def ready(self) -> None:
        """Wait until the device is idle."""
        torch.cuda.synchronize(self._device)

    def mark(self) -> torch.cuda.Event:
        """An event."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """Milliseconds from one event to a later one."""
        end.synchronize()
        return float(start.elapsed_time(end))


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters; the CPU if it has none."""
    return next((t.device for t in tensors_of(model).values()), torch.device("cpu"))


def clock_of(device: torch.device) -> Clock:
    """The default clock of a device; on the CPU with one thread, the thread's clock."""
    if device.type == "cuda":
        return CudaClock(device)
    # Outside POSIX, processor time advances in ticks that are longer than a forward.
    alone = device.type == "cpu" and torch.get_num_threads() == 1 and os.name == "posix"
    return ThreadClock() if alone else HostClock(device)
