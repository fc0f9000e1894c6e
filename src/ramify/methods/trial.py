"""Trials: the true effect of edits on the loss, measured on the edited network and undone.

Shape letters: `S` samples, `M` copies of a split, `K` positions of one channel in a tensor.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ramify import distributed
from ramify.edit import Edit, Plan, Split, plan_edits
from ramify.edit.carry import displacements
from ramify.edit.plan import check_editable
from ramify.errors import RamifyError, derivatives
from ramify.probe.loss import Loss, check_weights, checked_loss, each_batch
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.indexing import Changes, Slot, positions, sources, touches
from ramify.tracing.kept_state import giving_back
from ramify.tracing.recorder import eager, tensors_of
from ramify.tracing.resizing import resized
from ramify.tracing.untouched import untouched


def binary_split(group: str, channel: int, move: Mapping[str, Tensor]) -> Split:
    """The binary morphism: two copies with half the outgoing weight, displaced by ± `move`.

    Args:
        group: any name that `graph[...]` takes.
        channel: its index.
        move: producer -> displacement, of the shape of one channel's kernel.

    Returns:
        The edit.
    """
    offsets = {name: torch.stack([part, -part]) for name, part in move.items()}
    return Split(group, channel, (0.5, 0.5), offsets)


@contextlib.contextmanager
def edited(graph: ChannelGraph, edits: Iterable[Edit]) -> Iterator[Plan]:
    """Put the model in eval mode, edited as by `ramify.apply`, for the duration of the block.

    Args:
        graph: the traced model.
        edits: the edits to try.

    Yields:
        The changes of every axis by the edits. The model is restored afterwards, even after an
        error.
    """
    plan, model = plan_edits(graph, edits), graph.model
    changed = resized(model, graph.indexing, plan.changes)
    with untouched(model), changed, eager():
        tensors = tensors_of(model)
        for name in {name for _, edit, _ in plan.splits for name in edit.offsets}:
            for dim, where, value in displacements(plan, name, graph):
                rows = tensors[name].data.movedim(dim, 0)
                rows[where.to(rows.device)] += value.to(rows)
        model.eval()
        torch.clear_autocast_cache()  # cached casts of the old weights
        try:
            yield plan
        finally:
            torch.clear_autocast_cache()


@contextlib.contextmanager
def differentiable(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Make tensors require gradients inside the block, including those that the user froze."""
    kept = [(tensor, tensor.requires_grad) for tensor in tensors]
    steps = [("a flag", partial(tensor.requires_grad_, flag)) for tensor, flag in kept]
    with giving_back(lambda: steps):
        for tensor, _ in kept:
            tensor.requires_grad_(True)
        with torch.enable_grad():
            yield


class Trial:
    r"""The true change of the mean loss by edits that are tried and undone.

    The network is edited in place, as by `ramify.apply`, and run in eval mode, without a new trace.
    To check a proposal, compare `trial.decrease([proposal.edit])` with its `gain`.

    Args:
        graph: the traced model; its weights must not change while the trial is in use.
        loss: `loss(model, batch)` -> (S,), one number per sample.
        batches: the sample; each measurement iterates it once.

    Raises:
        RamifyError: no batch, or loss or weights are not finite.

    Example:
        >>> import ramify
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)
        >>> trial = Trial(ramify.trace(net, x), loss, [x])
        >>> abs(trial.decrease([ramify.Split("0", 3)])) < 1e-6  # copies alone change nothing
        True

    Source: the true loss decrease of Gauss-Newton morphisms, section 4.1.
    """

    def __init__(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> None:
        check_editable(graph)
        check_weights(graph.model)
        self.graph = graph
        self._loss, self._batches = loss, batches
        model = graph.model
        with edited(graph, ()), torch.no_grad():
            found = [_double(checked_loss(loss, model, batch)) for batch in each_batch(batches)]
        if not found:
            raise RamifyError(_EMPTY)
        self._before = torch.cat(found)

    def losses(self, edits: Iterable[Edit] = ()) -> Tensor:
        """The loss of every sample after the edits.

        Args:
            edits: the edits to try together.

        Returns:
            Shape (S,), over all batches, in float64.

        Raises:
            RamifyError: there is no batch, or an edit is impossible.
        """
        with edited(self.graph, edits), torch.no_grad():
            found = [_double(self._loss(self.graph.model, batch)) for batch in self._batches]
        if not found:
            raise RamifyError(_EMPTY)
        return torch.cat(found)

    def decrease(self, edits: Iterable[Edit]) -> float:
        """The true decrease of the mean loss by the edits together; negative where it rises.

        Args:
            edits: the edits to try together.

        Returns:
            The mean loss before minus the mean loss after; minus infinity where that is not finite.
        """
        return self._less(self.losses(edits))

    def _less(self, losses: Tensor) -> float:
        [less] = distributed.all_mean([(self._before - losses).mean()], len(losses))
        decrease = float(less)
        return decrease if math.isfinite(decrease) else -math.inf

    def slopes(self, edit: Split) -> tuple[float, dict[str, Tensor]]:
        """The decrease of a split, and the gradient with respect to every copy's displacement.

        Args:
            edit: the split, with its offsets.

        Returns:
            The decrease, and for each producer the gradient of the mean loss after the split with
            respect to the copies' offsets: (M, *shape of one channel's kernel).

        Raises:
            RamifyError: there is no batch, or the edit is impossible.
        """
        with edited(self.graph, [edit]) as plan:
            group, _, new = plan.splits[0]
            slots = [slot for slot in group.slots if slot.role == "producer"]
            tensors = tensors_of(self.graph.model)
            kernels = [tensors[slot.name] for slot in slots]
            sums, losses = [torch.zeros_like(kernel) for kernel in kernels], []
            with differentiable(kernels):
                for batch in self._batches:
                    values = self._loss(self.graph.model, batch)
                    losses.append(_double(values))
                    with derivatives():
                        slopes = torch.autograd.grad(values.sum(), kernels, allow_unused=True)
                    sums = [a if b is None else a + b for a, b in zip(sums, slopes, strict=True)]
        if not losses:
            raise RamifyError(_EMPTY)
        samples = sum(len(values) for values in losses)
        means = distributed.all_mean([total / samples for total in sums], samples)
        gradients = {
            slot.name: copies_of(self.graph, group, slot, plan.changes, new, mean)
            for slot, mean in zip(slots, means, strict=True)
        }
        return self._less(torch.cat(losses)), gradients


def copies_of(
    graph: ChannelGraph,
    group: ChannelGroup,
    slot: Slot,
    changes: Changes,
    new: Sequence[int],
    gradient: Tensor,
) -> Tensor:
    """Map the gradient of an edited tensor to the displacements of some channels.

    This is the adjoint of applying a displacement: along its other dimensions a displaced kernel
    follows the edits of its inputs.

    Args:
        graph: the graph before the edits.
        group: the group of the displaced channels.
        slot: the tensor that is displaced.
        changes: the changes of every axis by the edits.
        new: M channels after the edits.
        gradient: in the shape of the tensor after the edits.

    Returns:
        (M, *kernel), or (M, K, *kernel) for K > 1, with the kernel's shape before the edits.
    """
    terms = graph.dims[slot.name]
    own, count = terms[slot.dim], len(new)
    where = positions(own, group.atom, changes)[list(new)]
    before = positions(own, group.atom)[changes[group.atom].source[list(new)]]  # (M, K)
    # Where other channels of the same dimension are copied, so is the displacement.
    came_from = (sources(own, changes)[where][:, :, None] == before[:, None, :]).argmax(2)
    index = torch.from_numpy(came_from + before.shape[1] * np.arange(count)[:, None]).reshape(-1)
    # The gradient at each copy's positions, times its share, summed over copies of one position.
    rows = gradient.movedim(slot.dim, 0)[torch.from_numpy(where.reshape(-1)).to(gradient.device)]
    share = graph.indexing.offset_scales(slot, changes)[where.reshape(-1)]
    rows = rows * torch.from_numpy(share).to(rows).view(-1, *[1] * (rows.dim() - 1))
    out = rows.new_zeros(before.size, *rows.shape[1:])
    out = out.index_add(0, index.to(rows.device), rows).unflatten(0, before.shape)
    # Along the other dimensions, back to the positions from before the edits.
    others = [dim for dim in range(len(terms)) if dim != slot.dim]
    scaled = graph.indexing.value_scales(slot.name)
    for place, dim in enumerate(others, start=2):
        if touches(terms[dim], changes):
            scale = torch.from_numpy(scaled[dim](terms[dim], changes)).to(out)
            source = torch.from_numpy(sources(terms[dim], changes)).to(out.device)
            parts = out.movedim(place, 0) * scale.view(-1, *[1] * (out.dim() - 1))
            old = parts.new_zeros(terms[dim].size, *parts.shape[1:])
            out = old.index_add(0, source, parts).movedim(0, place)
    return out.squeeze(1) if before.shape[1] == 1 else out


_EMPTY = (
    "there is no batch to measure the loss on: give a list or a loader, which can be gone through "
    "again and again"
)


def _double(values: Tensor) -> Tensor:
    return values.detach().cpu().double()
