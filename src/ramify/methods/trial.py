"""Trials: what edits really do to the loss, measured on the edited network and taken back.

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
from ramify.errors import RamifyError
from ramify.probe.loss import Loss, check_weights, checked_loss, each_batch
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.indexing import Changes, Slot, positions, resized, sources, touches
from ramify.tracing.kept_state import giving_back
from ramify.tracing.recorder import eager, tensors_of, untouched


def binary_split(group: str, channel: int, move: Mapping[str, Tensor]) -> Split:
    """The binary morphism: two copies of half the outgoing weight, displaced by ± `move`.

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
    """The model in eval mode as `ramify.apply` would leave it, for the time of the block.

    Args:
        graph: the traced model.
        edits: what to suppose done.

    Yields:
        What the edits do to every axis. The model comes back as it was, whatever happens inside.
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
        torch.clear_autocast_cache()  # weights of other values, cast before
        try:
            yield plan
        finally:
            torch.clear_autocast_cache()


@contextlib.contextmanager
def differentiable(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Tensors take gradients inside, also those that the user has frozen."""
    kept = [(tensor, tensor.requires_grad) for tensor in tensors]
    steps = [("a flag", partial(tensor.requires_grad_, flag)) for tensor, flag in kept]
    with giving_back(lambda: steps):
        for tensor, _ in kept:
            tensor.requires_grad_(True)
        with torch.enable_grad():
            yield


class Trial:
    r"""The true change of the mean loss by edits that are tried and taken back.

    The network is really edited, in place, as `ramify.apply` does it, and run in eval mode; no new
    trace is made. A proposal is judged by `trial.decrease([proposal.edit])` beside its `gain`.

    Args:
        graph: the traced model; its weights stay as they are while the trial is in use.
        loss: `loss(model, batch)` -> (S,), one number a sample.
        batches: the sample; it is gone through once for each measurement.

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
            edits: what to try together.

        Returns:
            Shape (S,), of all batches, in float64.

        Raises:
            RamifyError: there is no batch, or an edit is not possible.
        """
        with edited(self.graph, edits), torch.no_grad():
            found = [_double(self._loss(self.graph.model, batch)) for batch in self._batches]
        if not found:
            raise RamifyError(_EMPTY)
        return torch.cat(found)

    def decrease(self, edits: Iterable[Edit]) -> float:
        """By how much the edits together really lower the mean loss; negative where it rises.

        Args:
            edits: what to try together.

        Returns:
            The mean loss before less the mean loss after; minus infinity where that is not finite.
        """
        return self._less(self.losses(edits))

    def _less(self, losses: Tensor) -> float:
        [less] = distributed.all_mean([(self._before - losses).mean()], len(losses))
        decrease = float(less)
        return decrease if math.isfinite(decrease) else -math.inf

    def slopes(self, edit: Split) -> tuple[float, dict[str, Tensor]]:
        """The decrease of a split, and how the mean loss answers to every copy's displacement.

        Args:
            edit: the split, with its offsets.

        Returns:
            The decrease, and for each producer the gradient of the mean loss after the split to
            the copies' offsets: (M, *shape of one channel's kernel).

        Raises:
            RamifyError: there is no batch, or the edit is not possible.
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
    """The gradient to the displacements of some channels, from that to the edited tensor.

    It is the adjoint of how a displacement enters: along its other dimensions a displaced kernel
    follows the edits of its inputs.

    Args:
        graph: before the edits.
        group: of the displaced channels.
        slot: the tensor that is displaced.
        changes: what the edits do to every axis.
        new: M channels after the edits.
        gradient: of the shape that the tensor has after the edits.

    Returns:
        (M, *kernel), or (M, K, *kernel) for K > 1, the kernel as it was before the edits.
    """
    terms = graph.dims[slot.name]
    own, count = terms[slot.dim], len(new)
    where = positions(own, group.atom, changes)[list(new)]
    before = positions(own, group.atom)[changes[group.atom].source[list(new)]]  # (M, K)
    # Where other channels of the same dimension are copied, so is the displacement.
    came_from = (sources(own, changes)[where][:, :, None] == before[:, None, :]).argmax(2)
    index = torch.from_numpy(came_from + before.shape[1] * np.arange(count)[:, None]).reshape(-1)
    # The gradient at each copy's places, times its share, summed over what came from one place.
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
