"""Gradient boosting: new neurons whose activations follow the functional gradient of the loss.

Shape letters: `W` channels of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.arguments import check_settings
from ramify.cost import CostModel
from ramify.edit import Split
from ramify.edit.plan import check_editable
from ramify.errors import RamifyError, derivatives
from ramify.methods.draws import (
    Kernels,
    check_learnable,
    check_positive,
    fresh_kernels,
    lengths,
    producer_kernels,
    stream,
)
from ramify.methods.new_neurons import (
    NO_BATCH,
    additions,
    columns_of,
    masks_of,
    reader_gradients,
    squares_of,
)
from ramify.methods.proposal import Proposal, best_first
from ramify.methods.trial import copies_of, differentiable, edited
from ramify.probe.loss import Loss, check_weights, checked_loss, each_batch
from ramify.probe.replay import decomposed
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.recorder import tensors_of


@dataclass(frozen=True)
class Boosting:
    r"""Functional gradient boosting: new neurons with the largest gradient, old weights fixed.

    A new neuron with incoming weights r and outgoing weights w = 0 changes nothing, but the loss
    has a gradient with respect to w: over samples s and the consumers k that read it,

    .. math:: G_k(r) = \mathbb{E}_s[\delta_k(s) \, a_k(r; s)], \quad
              \max_{\lVert r \rVert \le R} \; \sum_k \lVert G_k(r) \rVert^2

    with :math:`\delta_k` the functional gradient, that is, the gradient of the loss at consumer k.
    r starts as a random neuron (see `NewNeuron`), whose norm is R, and follows normalised gradient
    ascent steps, for all channels of all groups together: neurons without outgoing weights do not
    affect each other.

    The edit is a split of weights (1, 0) whose second copy is moved to r; the other per-channel
    values on the path are copied from the channel, as with `NewNeuron`. The outgoing weights start
    at zero, so that the output is unchanged; the first training step moves them along -G. To boost
    as Schwenk and Bengio do, freeze the old neurons while training.

    Args:
        steps: the number of gradient steps on r.
        lr: the length of a step, relative to R.
        scale: standard deviation of the initial r, relative to the root mean square of each
            producer's current weights.
        seed: the seed of the initial r, which also differs from one shape of the network to the
            next.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best = Boosting(steps=5).propose(graph, loss, [x])[0]
        >>> best.edit.weights  # nothing reads the new neuron yet
        (1.0, 0.0)

    Source: Schwenk and Bengio, "Boosting neural networks", 2000; Bach, "Breaking the curse of
    dimensionality with convex neural networks", 2017; the baseline "Gradient Boosting" of S2D,
    Figure 1 (d).
    """

    steps: int = 20
    lr: float = 0.1
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        check_positive("steps", self.steps)
        check_positive("lr", self.lr)
        check_positive("scale", self.scale)

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """One trained new neuron for every channel, best first.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample, twice differentiable by
                autograd.
            batches: the sample; it is iterated twice per step.

        Returns:
            The proposals. `score` is the norm of G: how fast the mean loss falls per unit length of
            the outgoing weights as they leave zero. It does not tell how far they will go, so
            `gain` is 0.

        Raises:
            RamifyError: no batch, the loss is not per sample, loss or weights are not finite, or
                weights are of float16.
        """
        check_editable(graph)
        check_weights(graph.model)
        groups = [group for group in graph.groups if group.can_split]
        if not any(group.consumers for group in groups):  # no weight would read a new neuron
            return []
        generator = stream(self.seed, graph)
        held = [producer_kernels(graph, group) for group in groups]
        for kernels in held:
            check_learnable(kernels)
        fresh = [fresh_kernels(kernel, self.scale, generator) for kernel in held]
        radii = [lengths(r) for r in fresh]
        best, scores = fresh, [torch.full_like(radius, -1.0) for radius in radii]
        for step in range(self.steps + 1):
            squares, slopes = outgoing_gradients(
                graph, groups, additions(groups, held, fresh), loss, batches
            )
            better = [square > score for square, score in zip(squares, scores, strict=True)]
            scores = [torch.maximum(a, b) for a, b in zip(scores, squares, strict=True)]
            best = [_where(*each) for each in zip(better, fresh, best, strict=True)]
            if step < self.steps:
                fresh = [
                    _climb(r, slope, radius, self.lr)
                    for r, slope, radius in zip(fresh, slopes, radii, strict=True)
                ]
        prices, out = CostModel(graph), []
        values = [score.sqrt().tolist() for score in scores]
        for edits, own in zip(additions(groups, held, best), values, strict=True):
            cost = prices.added(edits[:1])
            out += [
                Proposal(edit, 0.0, cost, score=score, graph=graph)
                for edit, score in zip(edits, own, strict=True)
            ]
        return best_first(out)


def outgoing_gradients(
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    edits: Sequence[Sequence[Split]],
    loss: Loss,
    batches: Iterable[Any],
) -> tuple[list[Tensor], list[Kernels]]:
    """The gradient of the loss with respect to the outgoing weights of every new neuron.

    With G over all batches known, the gradient of its squared norm is that of 2 ⟨G, G_b(r)⟩,
    batch by batch.

    Args:
        graph: the traced model.
        groups: the groups that get the neurons.
        edits: as `additions` returns them.
        loss: `loss(model, batch)` -> (S,).
        batches: the sample.

    Returns:
        By group: the squared norms of G (W,), and their gradients with respect to r.

    Raises:
        RamifyError: there is no batch.
    """
    every = [edit for own in edits for edit in own]
    with edited(graph, every) as plan, decomposed(graph.model):
        tensors = tensors_of(graph.model)
        # The outgoing weights of the new neurons are columns of the readers, still zero.
        columns = columns_of(graph, groups, plan)
        readers = {column.name: tensors[column.name] for own in columns for column in own}
        # Their incoming weights are rows of the producers.
        made = [slot.name for g in groups for slot in g.slots if slot.role == "producer"]
        producers = {name: tensors[name] for name in made}
        with differentiable([*readers.values(), *producers.values()]):
            # First G over all batches, then the gradient of its squared norm with respect to r.
            masks = masks_of(columns, readers)
            found = reader_gradients(graph.model, list(readers.values()), loss, batches)
            gradients = {n: g * masks[n] for n, g in zip(readers, found, strict=True)}
            slopes = _second_gradients(
                graph.model, readers, gradients, list(producers.values()), loss, batches
            )
    # Both have the shape of the edited network's tensors: take the new neurons' part of each.
    slope_of = dict(zip(producers, slopes, strict=True))
    climbs = []
    for group in groups:
        new = range(group.width, 2 * group.width)
        slots = {slot.name: slot for slot in reversed(group.slots) if slot.role == "producer"}
        climbs.append(
            {
                name: copies_of(graph, group, slot, plan.changes, new, slope_of[name])
                for name, slot in slots.items()
            }
        )
    return squares_of(columns, gradients), climbs


@derivatives()
def _second_gradients(
    model: nn.Module,
    readers: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    producers: Sequence[Tensor],
    loss: Loss,
    batches: Iterable[Any],
) -> list[Tensor]:
    """The gradient of 2 ⟨gradients, ∂L/∂readers⟩ by the producers, L the mean over all batches."""
    sums, samples = [torch.zeros_like(producer) for producer in producers], 0
    for batch in each_batch(batches):
        values = checked_loss(loss, model, batch)
        samples += len(values)
        found = torch.autograd.grad(
            values.sum(), list(readers.values()), create_graph=True, allow_unused=True
        )
        terms = [
            (2 * gradients[name] * slope).sum()
            for name, slope in zip(readers, found, strict=True)
            if slope is not None and slope.requires_grad
        ]
        if terms:
            slopes = torch.autograd.grad(torch.stack(terms).sum(), producers, allow_unused=True)
            sums = [a if b is None else a + b for a, b in zip(sums, slopes, strict=True)]
    if not samples:
        raise RamifyError(NO_BATCH)
    return distributed.all_mean([total / samples for total in sums], samples)


def _climb(fresh: Kernels, slope: Kernels, radius: Tensor, share: float) -> Kernels:
    """One ascent step of length lr times the radius, projected onto the ball of that radius."""
    step = share * radius / lengths(slope).clamp_min(_TINY)
    moved = {name: r + slope[name] * _per_channel(step, r) for name, r in fresh.items()}
    back = (radius / lengths(moved).clamp_min(_TINY)).clamp_max(1.0)
    return {name: r * _per_channel(back, r) for name, r in moved.items()}


def _where(chosen: Tensor, one: Kernels, other: Kernels) -> Kernels:
    """The kernels of the first argument where chosen (W,), else those of the second."""
    return {n: torch.where(_per_channel(chosen, r), r, other[n]) for n, r in one.items()}


def _per_channel(values: Tensor, kernel: Tensor) -> Tensor:
    return values.view(-1, *[1] * (kernel.dim() - 1))


_TINY = 1e-30  # where the gradient is zero, nothing moves
