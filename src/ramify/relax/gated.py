"""A weight with gates: what multiplies it, and how gates are attached and removed.

Shape letters: `W` channels of a group, `N` positions of one dimension of a weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils import parametrize

from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.indexing import Index, owners
from ramify.tracing.recorder import tensors_of
from ramify.tracing.resizing import set_data


@dataclass(frozen=True, eq=False)
class Factor:
    """The part of a weight that one gate multiplies, along one dimension.

    Attributes:
        dim: the dimension.
        channel: (N,), the channel of the group at each position, or -1.
        power: 1 if the weight reads the channels, or makes them with gates at producers. 2 for rows
            that take the gate of both factors of a product of activations: q·kᵀ reads a channel of
            q and of k.
    """

    dim: int
    channel: Index
    power: int


def gate_factors(graph: ChannelGraph, group: ChannelGroup) -> dict[str, list[Factor]]:
    """What a gate on a group multiplies: everything that the scale of a split multiplies.

    Args:
        graph: the traced model.
        group: one of its groups.

    Returns:
        Tensor name -> factors.
    """
    found: dict[str, list[Factor]] = {}
    indexing = graph.indexing
    # Weights that read the channels, along the dimension that does.
    for (name, dim), atoms in indexing.readers.items():
        if group.atom in atoms:
            channel = owners(indexing.dims[name][dim], group.atom)
            found.setdefault(name, []).append(Factor(dim, channel, 1))
    # Weights that make one factor of a product of activations: their rows take both gates.
    for (name, dim), scaled_rows in indexing.scaled_rows.items():
        for scaled in scaled_rows:
            if scaled.atom is group.atom:
                rows = np.logical_or.reduce([rows for rows, _ in scaled.parts])
                channel = np.where(rows, owners(indexing.dims[name][dim], group.atom), -1)
                found.setdefault(name, []).append(Factor(dim, channel, 2))
    return found


class GatedWeight(nn.Module):
    """The parametrization of one weight: the weight times the gates of all channels it reads.

    Args:
        gates: the module of the gates, registered elsewhere.
        factors: (name of the parameter in `gates`, what it multiplies).
        order: the order of the parameters in the weight's module, to be restored.
        persistent: whether the weight is kept in state dictionaries.
    """

    def __init__(
        self,
        gates: nn.Module,
        factors: Sequence[tuple[str, Factor]],
        order: tuple[str, ...],
        persistent: bool,
    ) -> None:
        super().__init__()
        self._held = (gates,)  # a tuple, so that the parameters have only one name in the model
        self._factors: list[tuple[str, int, int, str]] = []
        for number, (key, factor) in enumerate(factors):
            # If positions are not the channels in order, a buffer has the channel of each position.
            width = getattr(gates, key).numel()
            buffer = ""
            if not np.array_equal(factor.channel, np.arange(width)):
                buffer = f"channel{number}"
                index = torch.from_numpy(np.where(factor.channel < 0, width, factor.channel))
                self.register_buffer(buffer, index, persistent=False)
            self._factors.append((key, factor.dim, factor.power, buffer))
        self.order = order
        self.persistent = persistent

    @property
    def gates(self) -> nn.Module:
        """The module of the gates."""
        return self._held[0]

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the model uses it."""
        # One factor per dimension; positions without a gate are multiplied by the 1 at the end.
        along: dict[int, Tensor] = {}
        for key, dim, power, buffer in self._factors:
            factor: Tensor = getattr(self.gates, key)
            if buffer:
                factor = pad(factor, (0, 1), value=1.0)[getattr(self, buffer)]
            factor = factor.square() if power == 2 else factor
            along[dim] = along[dim] * factor if dim in along else factor
        for dim, factor in along.items():
            shape = [-1 if dim == other else 1 for other in range(weight.dim())]
            weight = weight * factor.to(weight).view(shape)
        return weight


@contextmanager
def multiplied(model: nn.Module, under: Mapping[str, GatedWeight]) -> Iterator[None]:
    """Multiply gates into the model's weights inside the block.

    Args:
        model: the model.
        under: tensor name -> its gates.
    """
    kept = []
    tensors = tensors_of(model)
    try:
        for name, gated in under.items():
            if name in tensors:  # a shared weight has other names too
                kept.append((tensors[name], tensors[name].data))
                set_data(tensors[name], gated.to(tensors[name].device)(tensors[name].data).detach())
        yield
    finally:
        for tensor, data in kept:
            set_data(tensor, data)


def put_under(module: nn.Module, name: str, gated: GatedWeight) -> None:
    """Attach gates to a module's parameter or buffer; the tensor object stays the same."""
    if parametrize.is_parametrized(module):
        module.__class__ = _own_class(module)
    gated.to(getattr(module, name).device)
    parametrize.register_parametrization(module, name, gated)
    cast(nn.ModuleDict, module.parametrizations).train(module.training)


def take_out(module: nn.Module, name: str) -> None:
    """Restore a module's tensor under its own name and in its position, without the gates.

    Copies of a parametrized module share its class, from which torch's own removal deletes the
    weight: the copies would lose theirs too.
    """
    held = lists_of(module)[name]
    gated, original = held[0], held.original
    assert isinstance(gated, GatedWeight)
    del cast(nn.ModuleDict, module.parametrizations)[name]
    if parametrize.is_parametrized(module):
        module.__class__ = _own_class(module, without=name)
    else:
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
    if isinstance(original, nn.Parameter):
        module.register_parameter(name, original)
    else:
        module.register_buffer(name, original, persistent=gated.persistent)
    for table in (module._parameters, module._buffers):
        _sort(table, gated.order)


def _sort(table: dict[str, Any], order: Sequence[str]) -> None:
    entries = dict(table)
    table.clear()
    table.update({key: entries.pop(key) for key in order if key in entries} | entries)


def lists_of(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """The parametrizations of each parametrized tensor of a module."""
    if not parametrize.is_parametrized(module):
        return {}
    return dict(cast(nn.ModuleDict, module.parametrizations).items())  # type: ignore[arg-type]


def _own_class(module: nn.Module, without: str = "") -> type[nn.Module]:
    """A class for this parametrized module alone."""
    cls = type(module)
    left_out = {"__dict__", "__weakref__", without}
    return type(
        cls.__name__, cls.__bases__, {k: v for k, v in vars(cls).items() if k not in left_out}
    )


def gated_weights(
    model: nn.Module, gates: nn.Module
) -> Iterator[tuple[nn.Module, str, parametrize.ParametrizationList]]:
    """Every (module, name, parametrizations) with these gates; a shared weight has several."""
    for module in list(model.modules()):
        for name, held in lists_of(module).items():
            if any(isinstance(p, GatedWeight) and p.gates is gates for p in held):
                yield module, name, held
