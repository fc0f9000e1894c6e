"""Random draws and lengths, shared by the methods that displace kernels.

Shape letters: `W` channels of a group, `M` copies of a split.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Generator, Tensor

from ramify.errors import RamifyError
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.indexing import kernels
from ramify.tracing.recorder import tensors_of

Kernels = dict[str, Tensor]
"""Producer -> (W, *kernel), one kernel per channel."""

Unit = Literal["absolute", "kernel"]
"""The units of displacement lengths; ``kernel``: relative to the channel's own kernels."""
UNITS = ("absolute", "kernel")


def producer_kernels(graph: ChannelGraph, group: ChannelGroup) -> Kernels:
    """The kernels that produce each channel of a group.

    Args:
        graph: the traced model.
        group: one of its groups.

    Returns:
        Producer -> (W, *kernel).
    """
    tensors = tensors_of(graph.model)
    out: Kernels = {}
    for slot in group.slots:
        if slot.role == "producer" and slot.name not in out:
            where = graph.positions(group, slot)
            out[slot.name] = kernels(tensors[slot.name].detach(), slot.dim, where)
    return out


def fresh_kernels(held: Mapping[str, Tensor], scale: float, generator: Generator) -> Kernels:
    """Random kernels of the current kernels' size: producer -> (W, *kernel)."""
    return {
        name: scale * root_mean_square(kernel) * normal(kernel, 1, generator)[:, 0]
        for name, kernel in held.items()
    }


def stream(seed: int, graph: ChannelGraph) -> Generator:
    """A generator that differs for each shape of the network and repeats when a run is repeated."""
    widths = [group.width for group in graph.groups]
    return torch.Generator().manual_seed(zlib.crc32(repr((seed, widths)).encode()))


def normal(kernel: Tensor, copies: int, generator: Generator) -> Tensor:
    """Standard normal (W, M, *kernel), the same on every device."""
    shape = (len(kernel), copies, *kernel.shape[1:])
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(kernel)


def lengths(held: Mapping[str, Tensor]) -> Tensor:
    """The norm of each channel's kernels together: (W,)."""
    flat = torch.cat([part.reshape(len(part), -1) for part in held.values()], dim=1)
    return flat.double().norm(dim=1).to(flat.dtype)


def step_lengths(step: float, unit: str, held: Mapping[str, Tensor]) -> Tensor:
    r"""How far the copies of each channel move.

    .. math:: \varepsilon_c = \varepsilon \sqrt{\tfrac1L \sum_{j=1}^L \lVert \theta_{jc} \rVert^2}

    in the unit ``kernel``, with L the number of layers that produce the channel, whose
    displacements add up, and ε itself in the unit ``absolute``.

    Args:
        step: ε.
        unit: ``kernel`` or ``absolute``.
        held: producer -> (W, *kernel).

    Returns:
        Shape (W,), in double precision.
    """
    own = lengths(held).double()
    if unit == "absolute":
        return torch.full_like(own, step)
    return step * own / math.sqrt(layer_count(held))


def layer_count(producers: Iterable[str]) -> int:
    """The number of layers that these parameters belong to; a bias counts with its weight."""
    return len({name.rpartition(".")[0] for name in producers})


def root_mean_square(kernel: Tensor) -> float:
    """Root mean square."""
    return float(kernel.double().square().mean().sqrt())


def second_copy(moved: Tensor) -> Tensor:
    """(W, 1, *kernel) of the second copy -> (W, 2, *kernel), with the first copy at zero."""
    return torch.cat([torch.zeros_like(moved), moved], dim=1)


def check_learnable(kernels: Mapping[str, Tensor]) -> None:
    """Check that displacements of kernels can be learned in their dtype.

    They start small and are squared, which under- or overflows in float16.

    Args:
        kernels: the kernels by their parameters' names.

    Raises:
        RamifyError: one of them is of float16; the message names it.
    """
    for name, kernel in kernels.items():
        if kernel.dtype is torch.float16:
            raise RamifyError(
                f"'{name}' is of float16, in which displacements cannot be learned: use bfloat16, "
                "or float32 under autocast"
            )


def check_unit(unit: str) -> None:
    """Check that a unit of lengths is known.

    Raises:
        RamifyError: the unit is unknown.
    """
    if unit not in UNITS:
        raise RamifyError(f"unit must be one of {', '.join(UNITS)}, but got {unit!r}")


def check_positive(name: str, value: float) -> None:
    """Check that a setting is above zero.

    Raises:
        RamifyError: the setting is not above zero.
    """
    if not 0 < value < math.inf:
        raise RamifyError(f"{name} must be positive, but got {value}")
