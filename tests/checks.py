"""What every edit must keep, measured: outputs, masks, and the bytes of everything."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves, tree_map

from ramify import ChannelGraph, ChannelGroup
from ramify.tracing.recorder import tensors_of


def call(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Every tensor that the model gives, on a copy of the inputs."""
    inputs = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, inputs)
    if isinstance(inputs, dict):
        found = model(**inputs)
    else:
        found = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The same without a graph."""
    with torch.no_grad():
        return call(model, inputs)


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest difference, relative to the largest entry."""
    assert [t.shape for t in one] == [t.shape for t in other]
    far = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, other, strict=True)]
    return max(far)


def ability(group: ChannelGroup) -> str:
    """Width and what may be done, in the words of `tests.structures`."""
    if group.can_split and group.width == 1:
        return "1 one"
    if group.can_split and not group.prune_exact:
        return f"{group.width} split but not exactly pruned"
    if group.can_prune and not group.can_split:
        return f"{group.width} {'prune' if group.prune_exact else 'inexact'}"
    return f"{group.width} {'split' if group.can_split else 'frozen'}"


def of_copy(graph: ChannelGraph, model: nn.Module) -> ChannelGraph:
    """The same graph for a copy of its model, to mask or to run; not to edit."""
    shown = copy.copy(graph)
    shown.model = model
    return shown


def mask(graph: ChannelGraph, group: ChannelGroup, channels: list[int]) -> None:
    """Make channels zero where they are read.

    A channel that weights alone read is zeroed in their columns. One that is read without a
    weight (a sum, a product of activations) is zeroed everywhere, so that it is zero when read;
    of a product, one factor is enough.
    """
    tensors = tensors_of(graph.model)
    for slot in group.slots:
        scaled = graph.indexing.scaled_rows.get((slot.name, slot.dim), ())
        factor = any(rows.atom is group.atom for rows in scaled)
        if slot.role == "consumer" or factor or not group.can_split:
            where = torch.from_numpy(graph.positions(group, slot)[channels].reshape(-1))
            tensors[slot.name].data.index_fill_(slot.dim, where, 0)


def snapshot(model: nn.Module, *others: Any) -> Any:
    """Everything about models, optimizers and tables that untouched ones keep, as bytes."""
    return [_plain(_state(each)) for each in (model, *others)], random_states()


def random_states() -> Any:
    """The states of every generator that a forward may draw from."""
    return torch.get_rng_state().tolist(), random.getstate(), _plain(np.random.get_state())  # noqa: NPY002


def _state(each: Any) -> Any:
    if isinstance(each, Optimizer):
        return each.state_dict(), {str(id(p)): dict(state) for p, state in each.state.items()}
    if isinstance(each, nn.Module):
        tensors = [(n, id(t), t, t.grad, t.requires_grad) for n, t in tensors_of(each).items()]
        return tensors, {name: dict(vars(module)) for name, module in each.named_modules()}
    return each


def _plain(value: Any) -> Any:
    """The value with tensors as bytes and other objects by identity, so that `==` sees it all."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Tensor):
        return (
            value.detach().clone().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes(),
            (tuple(value.shape), value.stride(), value.dtype, value.data_ptr()),
        )
    if isinstance(value, dict):
        return [(str(key), _plain(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else id(value)
