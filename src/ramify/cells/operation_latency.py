"""The latency of each operation of a space at each place of a supernet, in milliseconds.

A place is a number of channels, a size and a stride; edges with the same place share an entry. The
table is valid for the device and the number of threads that it was measured with. It can be saved
there and read on another machine, where the search runs.

Shape letters: `N` samples, `C` channels, `H`, `W` pixels, `E` edges of a cell, `O` operations.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ramify.cells.operations import Zero
from ramify.cells.stacking import CellPlan
from ramify.cells.supernet import Supernet
from ramify.errors import RamifyError
from ramify.latency import Clock, measure
from ramify.tracing.recorder import evaluating

FORMAT = "ramify-latency-1"


class Place(NamedTuple):
    """Where an operation runs: C, H and W of its input, and its stride."""

    channels: int
    height: int
    width: int
    stride: int


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of each operation at each place.

    Attributes:
        device: the measured device, such as `cpu`.
        threads: the number of PyTorch threads during the measurement.
        batch: samples N in each measurement.
        times: milliseconds by operation and place.

    Source: RARTS thesis, section 3.1.4.
    """

    device: str
    threads: int
    batch: int
    times: Mapping[tuple[str, Place], float]

    def costs(self, supernet: Supernet, inputs: Tensor) -> list[Tensor]:
        r"""The latency of each operation on each edge, for :class:`ramify.relax.ExpectedCost`.

        .. math:: c_{e,o} = \sum_{\text{cells}} LAT_{e,o}

        Args:
            supernet: the network that is searched.
            inputs: one of its inputs, (N, in_channels, H, W), of which only the size matters.

        Returns:
            For each of `supernet.arch_parameters()` a tensor (E, O), summed over the cells that
            share the logits.

        Raises:
            RamifyError: the table lacks an operation at a place.
        """
        space = supernet.space
        costs = {kind: torch.zeros(len(space.edges), len(space.operations)) for kind in space.kinds}
        for kind, rows, place in _mixtures(supernet, inputs):
            for column, operation in enumerate(space.operations):
                costs[kind][rows, column] += self._at(operation, place)
        return [costs[kind] for kind in space.kinds]

    def _at(self, operation: str, place: Place) -> float:
        if (operation, place) not in self.times:
            raise RamifyError(
                f"the latency table has no {operation} of {place.channels} channels at "
                f"{place.height}×{place.width} with stride {place.stride}: measure one for this "
                "space, these channels and this image size."
            )
        return self.times[operation, place]

    def to_json(self) -> dict[str, Any]:
        """The table as plain values, which `from_json` reads."""
        entries = [
            {"operation": operation, **place._asdict(), "ms": ms}
            for (operation, place), ms in self.times.items()
        ]
        head = {"device": self.device, "threads": self.threads, "batch": self.batch}
        return {"format": FORMAT} | head | {"entries": entries}

    @classmethod
    def from_json(cls, value: Any) -> LatencyTable:
        """Read the output of `to_json`, or a table written by hand in that form.

        Args:
            value: plain values.

        Returns:
            The table.

        Raises:
            RamifyError: it is not a table, or an entry is incomplete or out of range.
        """
        said = value.get("format") if isinstance(value, dict) else None
        if said != FORMAT:
            raise RamifyError(f"this is not a latency table of the form {FORMAT} but {said!r}.")
        try:
            head = str(value["device"]), int(value["threads"]), int(value["batch"])
            entries = list(value["entries"])
        except (KeyError, TypeError, ValueError) as error:
            raise RamifyError(
                f"the latency table is damaged ({error!r}): it needs device, threads, batch and "
                "entries."
            ) from None
        times: dict[tuple[str, Place], float] = {}
        for number, entry in enumerate(entries):
            key, ms = _entry(entry, number)
            if key in times:
                raise RamifyError(f"entry {number} of the latency table repeats another: drop it.")
            times[key] = ms
        return cls(*head, times)


def measure_latencies(
    supernet: Supernet,
    inputs: Tensor,
    *,
    repeats: int = 20,
    warmup: int = 3,
    clock: Clock | None = None,
) -> LatencyTable:
    """Time every operation at every place of a supernet, in the form that a derived network runs.

    Each operation runs alone, in evaluation mode, and its latency is the median of repeated calls
    after a warm-up. `none` costs nothing, since a derived network does not run it.

    Args:
        supernet: the network that is searched; its device is measured.
        inputs: one of its inputs, (N, in_channels, H, W).
        repeats: number of timed calls.
        warmup: number of calls before them.
        clock: the clock; by default that of the device.

    Returns:
        The table.

    Example:
        >>> from ramify.cells import NATS
        >>> net, x = NATS.supernet(channels=4, cells=1), torch.randn(1, 3, 8, 8)
        >>> table = measure_latencies(net, x, repeats=3)
        >>> len(table.times), [tuple(cost.shape) for cost in table.costs(net, x)]
        (15, [(6, 5)])
    """
    times: dict[tuple[str, Place], float] = {}
    places = dict.fromkeys(place for _, _, place in _mixtures(supernet, inputs))
    with torch.random.fork_rng(devices=[]):  # so that later random draws are not affected
        for place, (operation, build) in itertools.product(
            places, supernet.space.operations.items()
        ):
            module = build(place.channels, place.stride, False).to(inputs.device)
            if isinstance(module, Zero):
                times[operation, place] = 0.0
                continue
            x = torch.randn(len(inputs), *place[:3]).to(inputs.device)
            found = measure(module, x, repeats=repeats, warmup=warmup, clock=clock)
            times[operation, place] = found.median
    return LatencyTable(str(inputs.device), torch.get_num_threads(), len(inputs), times)


def _mixtures(supernet: Supernet, inputs: Tensor) -> list[tuple[str, list[int], Place]]:
    """For each state of every cell: the cell's kind, the rows of its edges, and their place."""
    found: list[tuple[str, list[int], Place]] = []
    space = supernet.space
    with ExitStack() as hooks, evaluating(supernet):
        for plan, cell in supernet.cells():
            for source, mixture in enumerate(cell.get_submodule("mixtures").children()):
                rows = [row for row, edge in enumerate(space.edges) if edge[0] == source]
                stride = plan.stride if source < space.inputs else 1

                def note(
                    mixture: nn.Module,
                    args: tuple[Any, ...],
                    plan: CellPlan = plan,
                    rows: list[int] = rows,
                    stride: int = stride,
                ) -> None:
                    height, width = args[0].shape[2:]
                    # All channels: those that bypass operations in the search do not do so later.
                    found.append((plan.kind, rows, Place(plan.channels, height, width, stride)))

                hooks.callback(mixture.register_forward_pre_hook(note).remove)
        supernet(inputs)
    return found


def _entry(entry: Any, number: int) -> tuple[tuple[str, Place], float]:
    """One checked entry of a table in JSON."""
    try:
        place = Place(*(int(entry[name]) for name in Place._fields))
        operation, ms = str(entry["operation"]), float(entry["ms"])
    except (KeyError, TypeError, ValueError) as error:
        raise RamifyError(
            f"entry {number} of the latency table is damaged ({error!r}): it needs operation, "
            f"{', '.join(Place._fields)} and ms."
        ) from None
    if min(place) < 1 or not 0 <= ms < float("inf"):
        raise RamifyError(
            f"entry {number} of the latency table is out of range ({entry}): sizes are 1 or more, "
            "and ms is 0 or more."
        )
    return (operation, place), ms
