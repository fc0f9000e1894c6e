"""Carries an edit to tensors, attributes, gradients and followers.

All changes are staged first, then committed or undone together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ramify.edit.gradient_hooks import check_gradient_hooks
from ramify.edit.plan import Plan
from ramify.errors import RamifyError
from ramify.tracing import ChannelGraph, check_writable
from ramify.tracing.dims import Fixed
from ramify.tracing.grouped import ANY_WIDTH, BLOCK, SETTING
from ramify.tracing.indexing import Scaling, positions, reindex, sources
from ramify.tracing.modes import ABSENT, set_attribute
from ramify.tracing.recorder import tensors_of
from ramify.tracing.resizing import attribute_values, set_data

_ANY_WIDTH = (
    f"widths of the experts are no multiples of {BLOCK} bytes any more, as grouped products need: "
    "from now on they are computed one after the other, and `from_pretrained` needs "
    f"experts_implementation='{ANY_WIDTH}' for these weights; with multiples of {BLOCK // 2}, all "
    "stays as it was"
)

Follower: TypeAlias = nn.Module | MutableMapping[str, Tensor]


class Swap:
    """Staged assignments: nothing changes before `commit`, and `undo` reverts all of them."""

    def __init__(self) -> None:
        self._do: list[Callable[[], None]] = []
        self._undo: list[Callable[[], None]] = []
        self._later: list[tuple[Tensor, int, Tensor, Tensor]] = []
        self._given: dict[int, Tensor] = {}

    def has(self, target: Tensor) -> bool:
        """Whether new data for a tensor is staged already, as several followers may share it."""
        return id(target) in self._given

    def tensor(self, target: Tensor, value: Tensor) -> None:
        """Stage new data for a tensor."""
        old = target.data
        self._given[id(target)] = target
        self._do.append(lambda: set_data(target, value))
        self._undo.append(lambda: set_data(target, old))

    def item(self, table: MutableMapping[Any, Any], key: Any, value: Any) -> None:
        """Stage a new value in a table."""
        old = table[key]
        self._do.append(lambda: table.__setitem__(key, value))
        self._undo.append(lambda: table.__setitem__(key, old))

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Stage a new value of an attribute."""
        old = getattr(owner, name, ABSENT)
        self._do.append(lambda: set_attribute(owner, name, value))
        self._undo.append(lambda: set_attribute(owner, name, old))

    def offset(self, target: Tensor, dim: int, where: Tensor, value: Tensor) -> None:
        """Stage a displacement along one dimension; it follows the check of undisplaced copies."""
        self._later.append((target, dim, where, value))

    def taken_back_by(self, undo: Callable[[], None] | None) -> None:
        """Register a change made elsewhere, to be undone together with the others."""
        if undo is not None:
            self._undo.append(undo)

    def commit(self) -> None:
        """Make all staged changes except the displacements."""
        for do in self._do:
            do()
        torch.clear_autocast_cache()

    def undo(self) -> None:
        """Undo all changes."""
        for undo in self._undo:  # data before gradients, whose shape must match it
            undo()
        torch.clear_autocast_cache()

    def displace(self) -> None:
        """Displace the copies; values that autograd saved before are no longer valid."""
        for target, dim, where, value in self._later:
            rows = target.data.movedim(dim, 0)
            rows[where.to(rows.device)] += value.to(device=rows.device, dtype=rows.dtype)
        for tensor in self._given.values():
            # A backward pass of an earlier forward would give channels the gradients of others.
            torch.autograd.graph.increment_version(tensor)


def stage_model(swap: Swap, graph: ChannelGraph, plan: Plan) -> None:
    """Stage the model's tensors, their gradients, and the attributes that hold sizes."""
    check_gradient_hooks(graph, plan)
    tensors = tensors_of(graph.model)
    for name in graph.indexing.touched(plan.changes):
        tensor, terms = tensors[name], graph.dims[name]
        _stage_tensor(swap, graph, plan, name, tensor)
        if tensor.grad is not None:
            grad = reindex(tensor.grad, terms, plan.changes, graph.indexing.gradient_scales(name))
            swap.attribute(tensor, "grad", grad)
    _stage_attributes(swap, graph, plan, graph.model)


def _stage_tensor(swap: Swap, graph: ChannelGraph, plan: Plan, name: str, tensor: Tensor) -> None:
    if swap.has(tensor):
        return
    weights = graph.indexing.value_scales(name)
    swap.tensor(tensor, reindex(tensor, graph.dims[name], plan.changes, weights))
    for dim, where, value in displacements(plan, name, graph):
        swap.offset(tensor, dim, where, value)


def _stage_attributes(swap: Swap, graph: ChannelGraph, plan: Plan, model: nn.Module) -> None:
    attributes = graph.indexing.attributes
    for module, attribute, _, new in attribute_values(model, attributes, plan.changes):
        if attribute == SETTING:
            warnings.warn(_ANY_WIDTH, stacklevel=5)
        swap.attribute(module, attribute, new)


def displacements(
    plan: Plan, name: str, graph: ChannelGraph
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The displacements (dimension, positions, values) of one tensor in its shape after all edits.

    Along its other dimensions a displaced kernel follows the edits of its inputs.

    Yields:
        One entry for each split that displaces this tensor.
    """
    terms = graph.dims[name]
    for group, edit, new in plan.splits:
        if name not in edit.offsets:
            continue
        slot = next(s for s in group.slots if s.name == name and s.role == "producer")
        # The positions of the copies in the new tensor, and the old position that each copies.
        own = terms[slot.dim]
        where = positions(own, group.atom, plan.changes)[new]
        before = positions(own, group.atom)[edit.channel]
        came_from = sources(own, plan.changes)[where]
        count = len(before)
        rows = np.searchsorted(before, came_from) + count * np.arange(len(new))[:, None]
        # The offsets in that order, one row for each position.
        offsets = edit.offsets[name].detach()
        offsets = offsets.reshape(len(new) * count, *offsets.shape[2 if count > 1 else 1 :])
        offsets = offsets[torch.from_numpy(rows.reshape(-1)).to(offsets.device)]
        # Along the other dimensions they follow the edits as the kernel itself does.
        scaled = graph.indexing.value_scales(name)
        others = [dim for dim in range(len(terms)) if dim != slot.dim]
        shares = graph.indexing.offset_scales(slot, plan.changes)[where.reshape(-1)]
        value = reindex(
            offsets,
            [Fixed(rows.size), *(terms[dim] for dim in others)],
            plan.changes,
            [_given(shares), *(scaled[dim] for dim in others)],
        )
        yield slot.dim, torch.from_numpy(where.reshape(-1)), value


def _given(values: NDArray[np.float64]) -> Scaling:
    return lambda term, changes: values


def stage_follower(swap: Swap, graph: ChannelGraph, plan: Plan, follower: Follower) -> None:
    """Stage the tensors of a model or state dictionary with the same names, shared ones once.

    Raises:
        RamifyError: a name is missing, a shape differs, or a tensor was created in inference mode.
    """
    module = named_alike(graph.dims, follower) if isinstance(follower, nn.Module) else None
    if module is not None:
        check_writable(module)
    held = tensors_of(module) if module is not None else cast(Mapping[str, Tensor], follower)
    own = tensors_of(graph.model)
    for name in graph.indexing.touched(plan.changes):
        # A state dictionary holds a tied tensor under each of its names.
        for alias in [a for a, first in graph.flow.aliases.items() if first == name]:
            tensor = held.get(alias)
            if tensor is None and alias != name:
                continue
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else None
            if tensor is None or shape != graph.flow.param_shapes[name]:
                kind = "nothing" if tensor is None else f"a {type(tensor).__name__}"
                seen = kind if shape is None else f"shape {shape}"
                raise RamifyError(
                    f"a follower has the names and shapes of the model, and for '{alias}' of shape "
                    f"{graph.flow.param_shapes[name]} this one has {seen}"
                )
            if tensor is own[name]:
                continue
            if module is not None:
                _stage_tensor(swap, graph, plan, name, tensor)
                continue
            scales = graph.indexing.value_scales(name)
            value = reindex(tensor, graph.dims[name], plan.changes, scales)
            for dim, where, offset in displacements(plan, name, graph):
                swap.offset(value, dim, where, offset)
            swap.item(cast(MutableMapping[str, Tensor], follower), alias, value)
    if module is not None:
        _stage_attributes(swap, graph, plan, module)


def named_alike(names: Iterable[str], follower: nn.Module) -> nn.Module:
    """The follower, or the module that it wraps, as weight averages and compiled models do."""
    for attribute in ("module", "_orig_mod"):
        inner = getattr(follower, attribute, None)
        if isinstance(inner, nn.Module) and not set(names) <= tensors_of(follower).keys():
            return inner
    return follower
