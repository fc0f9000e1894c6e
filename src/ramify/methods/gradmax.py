"""GradMax: new neurons whose outgoing weights have the largest gradient, in closed form.

Shape letters: `W` channels of a group, `N` new neurons, `D` incoming weights of one, `R` outgoing
weights of one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ramify import distributed
from ramify.arguments import check_settings
from ramify.cost import CostModel
from ramify.edit import Split
from ramify.edit.plan import check_editable
from ramify.errors import Diverged, RamifyError
from ramify.methods.draws import Kernels, check_positive, producer_kernels
from ramify.methods.new_neurons import NO_BATCH, outgoing_squares
from ramify.methods.outgoing_matrix import OutgoingMatrix, OutputGradients, Start
from ramify.methods.proposal import Proposal, best_first
from ramify.probe.loss import Loss, check_real, check_weights, each_batch
from ramify.probe.targets import Target, targets
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.recorder import tensors_of

AT_ONCE = 32
"""The number of new neurons followed together, where the group is no wider than this."""
LARGEST = 2**26
"""Entries of the largest matrix kept for a group: half a GiB."""
NEGLIGIBLE = 1e-5
"""Singular values and effects below this share of the largest count as rounding error."""
_INFINITE = (
    "the gradient to new neurons is not finite: activations are too large for their dtype; "
    "scale the data, or use a dtype with a wider range"
)


class _NotFinite(Exception):
    """The effect of a new neuron is not finite."""


@dataclass(frozen=True)
class GradMax:
    r"""GradMax: new neurons whose outgoing weights have the largest gradient.

    A new neuron with incoming weights θ and outgoing weights w = 0 changes nothing, but the loss
    has a gradient with respect to w. With the neuron's path linearised around kernels of zero, that
    gradient is :math:`M \theta`, and under a bound on the norm of θ it is largest along the right
    singular vectors of

    .. math:: M = \mathbb{E}\Bigl[\sum_p g_k(p) \otimes J_k(p)\Bigr],

    with :math:`g_k` the gradient at the output of each consumer k of the channel, p its positions
    and the taps of its kernel, and :math:`J_k` the derivative of what it reads by θ. Where several
    layers produce or read the channel (a residual stream), θ and w hold the kernels of all of them,
    in one singular value problem. M is summed over the batches; the network itself is not changed.

    The edit is a split of weights (1, 0) whose second copy gets θ as its kernels; biases and the
    other per-channel values on the path (norm weights and running statistics, depthwise kernels)
    are copied from the channel. Norms keep their statistics, even where these fit the channel
    better than the neuron; so the first neurons copy the channels whose kernel norms are nearest to
    the mean norm. M is computed for the first of these. At a kink the path has the slope of a
    softplus, which for ReLU at 0 is 1/2, and a max pool has the mean slope of its window. Of θ and
    -θ, which are equivalent to first order, the better one is used.

    A layer whose kernel has no first-order effect at zero keeps the channel's own kernel: one
    factor of a gated perceptron, queries and keys of a head, a layer that reads its own output. The
    other kernels are then found as before, but M depends on the channel, so such a group gets one
    neuron per call. Groups whose channels are read by no weight, those whose M has more than 2²⁶
    entries, and those whose kernels may not be zero (weight norm divides by their norm, and a
    pooled standard deviation has an infinite slope at zero) are left out.

    `gain` is the first-order decrease of the mean loss by **one gradient step** of the outgoing
    weights at the learning rate `lr`, :math:`\eta \lVert \partial L / \partial w \rVert^2`, at the
    actual neuron, without the linearised path. The edit itself does not change the loss: the gain
    comes with training. To make it comparable with the gains of splits, set `lr` to the training
    learning rate.

    Args:
        neurons: the most new neurons per group, at most its width; None for its width.
        scale: the norm of θ, relative to the root mean square norm of the group's kernels.
        lr: η, the learning rate of the gradient step in `gain`.
        surrogate: β of the softplus whose slope replaces that at the kinks of piecewise-linear
            activations; None for the true slope, which for ReLU at 0 is 0.
        groups: the groups to add to, by any name that `graph[...]` takes; None for all possible
            groups.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best = GradMax().propose(graph, loss, [x])[0]
        >>> best.edit.weights, best.gain > 0  # nothing reads the new neuron yet
        ((1.0, 0.0), True)

    Source: U. Evci, B. van Merriënboer, T. Unterthiner, F. Pedregosa, M. Vladymyrov, "GradMax:
    growing neural networks using gradient information", 2022, equations (8) to (11); the paper
    treats two consecutive layers with f(0) = 0 and f'(0) = 1 between them.
    """

    neurons: int | None = None
    scale: float = 1.0
    lr: float = 0.1
    surrogate: float | None = 3.0
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        check_positive("scale", self.scale)
        check_positive("lr", self.lr)
        if self.surrogate is not None:
            check_positive("surrogate", self.surrogate)
        if self.neurons is not None:
            check_positive("neurons", self.neurons)

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """New neurons of every group, best first.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the sample; it is iterated twice.

        Returns:
            The proposals, each for a different channel of its group; fewer than `neurons` where the
            gradient has fewer directions.

        Raises:
            RamifyError: no batch, the loss is not per sample, loss or weights are not finite, or a
                requested group cannot have such neurons.
        """
        check_editable(graph)
        check_weights(graph.model)
        check_real(graph.model)
        starts, matrices = self._matrices(graph, loss, batches)
        neurons = [
            self._neurons(graph, start, matrix)
            for start, matrix in zip(starts, matrices, strict=True)
        ]
        some = [(start.group, own) for start, own in zip(starts, neurons, strict=True) if own]
        if not some:
            return []
        groups, pairs = zip(*some, strict=True)
        squares = outgoing_squares(graph, groups, pairs, loss, batches)
        prices, out = CostModel(graph), []
        for own, found in zip(pairs, squares, strict=True):
            signs = found.view(-1, 2).argmax(1).tolist()
            cost = prices.added([_signed(own[0], 0)])
            for split, sign, both in zip(own, signs, found.view(-1, 2).tolist(), strict=True):
                gain = self.lr * both[sign]
                out.append(Proposal(_signed(split, sign), gain, cost, graph=graph))
        return best_first(out)

    def _matrices(
        self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]
    ) -> tuple[list[Start], list[Tensor]]:
        """The start of each group's neurons, and its M (D, R) over all batches of all ranks."""
        starts: list[Start] | None = None
        sums: list[Tensor] = []
        for batch in each_batch(batches):
            known = OutputGradients(graph, loss, batch)
            if starts is None:
                starts = self._starts(known)
            found = [_matrix(known, start, self.surrogate) for start in starts]
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        if starts is None:
            raise RamifyError(NO_BATCH)
        return starts, distributed.all_sum(sums)

    def _starts(self, known: OutputGradients) -> list[Start]:
        """Where the path of each group's neurons is linearised."""
        graph = known.graph
        able = {t.group.name: t for t in targets(graph) if t.group.consumers}
        wanted = able if self.groups is None else [graph[name].name for name in self.groups]
        found, infinite = [], False
        for name in wanted:
            start = None
            if name in able and _entries(graph, able[name]) <= LARGEST:
                try:
                    start = _freed(known, _first(graph, able[name]), self.surrogate)
                except _NotFinite:
                    infinite = True
            if start is not None:
                found.append(start)
            elif self.groups is not None:
                raise RamifyError(_refusal(graph, able.get(name), graph[name]))
        if infinite and not found:
            raise RamifyError(_INFINITE)
        return found

    def _neurons(self, graph: ChannelGraph, start: Start, matrix: Tensor) -> list[Split]:
        """Each neuron as a split of its own channel into that channel, θ and -θ."""
        held = _weights(graph, start.group)
        length = self.scale * float(_mean_length(_lengths(start.vectors(held))))
        most = start.group.width if self.neurons is None else self.neurons
        whole = all(bool(free.all()) for free in start.free.values())
        found = _leading(matrix, min(most, start.group.width) if whole else 1)
        if not length:
            return []
        out = []
        for vector, source in zip(found, _nearest(held), strict=False):
            kernels = {name: kernel[source] for name, kernel in held.items()}
            own = replace(start, source=source, kernels=kernels)
            out.append(own.split(length * torch.stack([vector, -vector])))
        return out


def _weights(graph: ChannelGraph, group: ChannelGroup) -> Kernels:
    """The kernels of a group, without the biases: producer -> (W, *kernel)."""
    tensors = tensors_of(graph.model)
    every = producer_kernels(graph, group)
    return {name: kernel for name, kernel in every.items() if tensors[name].dim() > 1}


def _entries(graph: ChannelGraph, target: Target) -> int:
    """The number of entries of M."""
    tensors, group = tensors_of(graph.model), target.group
    incoming = sum(kernel[0].numel() for kernel in _weights(graph, group).values())
    outgoing = sum(
        tensors[slot.name].numel()
        // tensors[slot.name].shape[slot.dim]
        * graph.positions(group, slot).shape[1]
        for slot in group.slots
        if slot.role == "consumer"
    )
    return incoming * outgoing


def _first(graph: ChannelGraph, target: Target) -> Start:
    """All kernels at zero; the rest is from the channel whose kernel norm is nearest the mean."""
    held = _weights(graph, target.group)
    source = _nearest(held)[0]
    rows = {kernel.name: kernel.positions.shape[1] for kernel in target.kernels}
    free = {n: torch.ones(rows[n], dtype=torch.bool, device=k.device) for n, k in held.items()}
    return Start(target.group, source, {n: kernel[source] for n, kernel in held.items()}, free)


def _lengths(flat: Tensor) -> Tensor:
    return flat.double().norm(dim=1)


def _mean_length(lengths: Tensor) -> Tensor:
    return lengths.square().mean().sqrt()


def _nearest(held: Kernels) -> list[int]:
    """Channels by the distance of their norm from the root mean square of all, nearest first."""
    lengths = _lengths(torch.cat([kernel.flatten(1) for kernel in held.values()], dim=1))
    apart = (lengths - _mean_length(lengths)).abs()
    return [int(channel) for channel in torch.argsort(apart, stable=True)]


def _matrix(known: OutputGradients, start: Start, beta: float | None) -> Tensor:
    """M (D, R) of the sum of the losses over one batch."""
    mask = start.mask
    every = torch.eye(int(mask.sum()), dtype=torch.float64, device=mask.device)
    sizes = [int(part.sum()) for part in mask.split([k.numel() for k in start.kernels.values()])]
    count = min(max(AT_ONCE, start.group.width), max(sizes))
    matrix = OutgoingMatrix(known, start, count, beta)
    parts = zip(start.kernels, every.split(sizes), strict=True)
    return torch.cat([matrix.times(n, start.whole(own)[n]) for n, own in parts if len(own)])


def _freed(known: OutputGradients, start: Start, beta: float | None) -> Start | None:
    """The start with the rows free that have a first-order effect there.

    Returns:
        The start; None if no row has such an effect.

    Raises:
        _NotFinite: an effect is infinite, as where the standard deviation of a channel is pooled,
            whose slope is infinite for a channel that is constant.
    """
    while any(bool(free.any()) for free in start.free.values()):
        rows = [(name, int(k)) for name, free in start.free.items() for k in free.nonzero()]
        try:
            matrix = OutgoingMatrix(known, start, 1, beta)
        except Diverged:  # with kernels of zeros, as under weight norm: without them it is finite
            return None
        effects = [matrix.times(name, _probe(start, name, k)).abs().sum() for name, k in rows]
        [sizes] = distributed.all_sum([torch.stack(effects)])
        if not bool(sizes.isfinite().all()):
            raise _NotFinite
        least = NEGLIGIBLE * float(sizes.max())
        dead = [row for row, size in zip(rows, sizes.tolist(), strict=True) if size <= least]
        if not dead:
            return start
        # Where all factors are zero, one keeps the source's kernel; the next may then have an
        # effect.
        for name, k in dead if len(dead) < len(rows) else dead[:1]:
            free = start.free[name].clone()
            free[k] = False
            start = replace(start, free={**start.free, name: free})
    return None


def _probe(start: Start, name: str, k: int) -> Tensor:
    """(1, *kernel) of a producer: along one row only, drawn at random so that nothing cancels."""
    kernel = start.kernels[name]
    out = torch.zeros_like(kernel, memory_format=torch.contiguous_format)[None]
    row = out.view(len(start.free[name]), -1)[k]
    generator = torch.Generator().manual_seed(0)
    row.copy_(torch.randn(row.shape, generator=generator, dtype=torch.float64))
    return out


def _leading(matrix: Tensor, most: int) -> Tensor:
    """(N, D): the left singular vectors of (D, R), largest singular values first, up to `most`."""
    tall = matrix.shape[0] > matrix.shape[1]
    # Squares of large or small entries would overflow or underflow.
    largest = matrix.abs().amax()
    if not bool(torch.isfinite(largest)):
        raise RamifyError(_INFINITE)
    matrix = matrix / torch.where(largest > 0, largest, torch.ones_like(largest))
    values, vectors = torch.linalg.eigh(matrix.T @ matrix if tall else matrix @ matrix.T)
    values, vectors = values.flip(0)[:most], vectors.flip(1)[:, :most]
    kept = values > NEGLIGIBLE**2 * values[0].clamp_min(torch.finfo(values.dtype).tiny)
    vectors = vectors[:, kept]
    if tall:
        vectors = matrix @ vectors / values[kept].sqrt()
    return vectors.T


def _signed(split: Split, sign: int) -> Split:
    """The split into the channel and one of its two neurons: θ for sign 0, -θ for sign 1."""
    offsets = {name: part[[0, 1 + sign]] for name, part in split.offsets.items()}
    return Split(split.group, split.channel, (1.0, 0.0), offsets)


def _refusal(graph: ChannelGraph, target: Target | None, group: ChannelGroup) -> str:
    """Why a group cannot have such neurons, and what to do about it."""
    if target is None and not group.can_split:
        reason = group.reason
    elif target is None and not group.consumers:
        reason = "no weight reads its channels"
    elif target is None:
        reason = "its channels pass a grouped convolution or a product with other channels"
    elif (entries := _entries(graph, target)) > LARGEST:
        reason = f"its matrix would have {entries:,} entries, more than {LARGEST:,}"
    else:
        reason = (
            f"on the first batch no kernel of {', '.join(group.producers)} has a first-order "
            "effect on the loss, or the loss or its gradient is not finite where they are zero"
        )
    return f"'{group.name}' cannot get new neurons by GradMax: {reason}; leave it out of `groups`"
