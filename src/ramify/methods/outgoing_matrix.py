r"""What the loss asks of a new neuron's outgoing weights, to first order in its incoming ones.

Let a neuron with incoming weights θ and outgoing weights w = 0 be added, and let its path
:math:`a_k(\theta)` to consumer k be taken to first order around a start. The gradient of the mean
loss to w is then linear in θ, and its matrix is the mixed second derivative

.. math:: M = \frac{\partial^2 L}{\partial w \, \partial \theta} =
          \mathbb{E}\Bigl[\sum_p g_k(p) \otimes J_k(p)\Bigr]

with :math:`g_k` the gradient at the consumer's own output, p its positions and taps, and
:math:`J_k` the derivative of what it reads to θ: for a layer behind another, what the first reads,
times the slope of what lies between. The loss does not depend on θ as long as w is 0, and so one
new neuron for each entry of θ gives all columns of M at once: each with an incoming weight of its
own, all moved by one number t, the derivative to t having a derivative to every w.

Shape letters: `N` new neurons, `D` incoming weights of one, `R` outgoing weights of one, `K` rows
of a weight that make one channel.

Source: U. Evci and others, "GradMax: growing neural networks using gradient information", 2022,
section 3, for two layers one behind the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ramify.edit import Plan, Split
from ramify.edit.carry import displacements
from ramify.methods.draws import Kernels
from ramify.methods.new_neurons import Column, columns_of
from ramify.methods.trial import edited
from ramify.probe.loss import Loss, checked_loss
from ramify.probe.recorded_pass import read_gradients
from ramify.probe.replay import decomposed, replay
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.flow import DimFlow
from ramify.tracing.propagate import propagate
from ramify.tracing.recorder import Ref, Tape, record, tensors_of

AT_ONCE = 128
"""New neurons that are followed together, where the group is not wider itself."""


@dataclass(frozen=True)
class Start:
    """Where the path of a new neuron is taken to first order.

    Attributes:
        group: what it is added to.
        source: the channel that it is a copy of, in all but the kernels that are free.
        kernels: producer -> the source's kernel, of the producers with kernels: biases are kept.
        free: producer -> (K,), which rows start at zero; the others stay the source's.
    """

    group: ChannelGroup
    source: int
    kernels: Kernels
    free: Mapping[str, Tensor]

    @property
    def mask(self) -> Tensor:
        """(all weights of one channel,): which of them are free."""
        parts = [
            self.free[name].repeat_interleave(kernel.numel() // len(self.free[name]))
            for name, kernel in self.kernels.items()
        ]
        return torch.cat(parts)

    @property
    def device(self) -> torch.device:
        """Where the kernels are."""
        return next(iter(self.kernels.values())).device

    def vectors(self, kernels: Kernels) -> Tensor:
        """Kernels (N, *kernel) of each producer -> their free weights (N, D)."""
        flat = [kernels[name].reshape(len(kernels[name]), -1) for name in self.kernels]
        return torch.cat(flat, dim=1)[:, self.mask]

    def whole(self, vectors: Tensor) -> Kernels:
        """Free weights (N, D) -> kernels (N, *kernel), zero where they are not free."""
        mask = self.mask
        flat = vectors.new_zeros(len(vectors), len(mask))
        flat[:, mask] = vectors
        parts = flat.split([kernel.numel() for kernel in self.kernels.values()], dim=1)
        return {
            name: part.reshape(len(part), *kernel.shape).to(kernel)
            for (name, kernel), part in zip(self.kernels.items(), parts, strict=True)
        }

    def split(self, vectors: Tensor) -> Split:
        """The source, and a new neuron for each vector (N, D) of free weights."""
        held = self.vectors({name: kernel[None] for name, kernel in self.kernels.items()})
        offsets = {
            name: torch.cat([torch.zeros_like(moved[:1]), moved])
            for name, moved in self.whole(vectors - held).items()
        }
        return Split(self.group.name, self.source, (1.0, *[0.0] * len(vectors)), offsets)


def outgoing_matrix(
    graph: ChannelGraph,
    start: Start,
    directions: Tensor,
    loss: Loss,
    batch: Any,
    beta: float | None,
) -> Tensor:
    """M times directions, of the sum of the losses over one batch.

    Args:
        graph: the traced model.
        start: of the new neuron.
        directions: (N, D), in the free weights; the identity for M itself.
        loss: `loss(model, batch)` -> (S,).
        batch: one batch.
        beta: softplus sharpness, for the slope at kinks; None for the slope as it is.

    Returns:
        (N, R): the derivative along each direction of the gradient to the outgoing weights.
    """
    size = max(AT_ONCE, start.group.width)
    return torch.cat(
        [_some(graph, start, part, loss, batch, beta) for part in directions.split(size)]
    )


def _some(
    graph: ChannelGraph,
    start: Start,
    directions: Tensor,
    loss: Loss,
    batch: Any,
    beta: float | None,
) -> Tensor:
    model, split = graph.model, start.split(torch.zeros_like(directions))
    run = lambda: checked_loss(loss, model, batch)  # noqa: E731
    with edited(graph, [split]) as plan, decomposed(model):
        tape = record(model, run, batch, draws=True)
        tensors = {name: tensor.detach() for name, tensor in tensors_of(model).items()}
        moves = _moves(graph, plan, start.whole(directions), tensors)
        [columns] = columns_of(graph, [start.group], plan)
        outputs = _outputs(graph, tape, {column.name for column in columns})
        mixed = _mixed(tape, tensors, outputs, moves, columns, beta)
        return mixed.double() * tape.results[0].numel()


def _moves(
    graph: ChannelGraph, plan: Plan, along: Kernels, tensors: Mapping[str, Tensor]
) -> Kernels:
    """For each producer, of its shape after the edit: each new neuron's own direction."""
    [(group, split, copies)] = plan.splits
    offsets = {n: torch.cat([torch.zeros_like(part[:1]), part]) for n, part in along.items()}
    moved = replace(plan, splits=[(group, replace(split, offsets=offsets), copies)])
    out = {}
    for name in along:
        out[name] = torch.zeros_like(tensors[name])
        for dim, where, value in displacements(moved, name, graph):
            out[name].movedim(dim, 0)[where.to(value.device)] += value.to(out[name])
    return out


def _mixed(
    tape: Tape,
    tensors: Mapping[str, Tensor],
    outputs: Mapping[int, Ref],
    moves: Mapping[str, Tensor],
    columns: Sequence[Column],
    beta: float | None,
) -> Tensor:
    """(N, R): ∂²L/∂t∂w of every new neuron, what makes the channels moved by t along `moves`."""
    gradients = read_gradients(tape, tensors, outputs)
    t = torch.zeros((), dtype=next(iter(moves.values())).dtype, requires_grad=True)
    names = dict.fromkeys(column.name for column in columns)
    weights = {name: tensors[name].clone().requires_grad_() for name in names}
    made = {n: weights.get(n, tensors[n]) + t.to(move.device) * move for n, move in moves.items()}
    terms: list[tuple[Tensor, Tensor]] = []

    def cut(position: int, tensor: Tensor) -> Tensor:
        # What a consumer makes enters the sum; what follows gets its value alone.
        if position in gradients and tensor.requires_grad:
            terms.append((tensor, gradients[position]))
        return tensor.detach().clone()

    zeros = {name: torch.zeros_like(tensors[name]) for name in names}
    with torch.enable_grad():
        last = max(outputs, default=-1)
        given = {**tensors, **weights, **made}
        replay(tape, given, outputs, cut, beta=beta, slopes=beta is not None, until=last)
        found = zeros | _derivatives(terms, t, weights)
    return torch.cat([column.part(found[column.name]) for column in columns], dim=1)


def _derivatives(
    terms: Sequence[tuple[Tensor, Tensor]], t: Tensor, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """∂/∂w ∂/∂t of the sum over consumers of ⟨what it makes, gradient held⟩."""
    if not terms:
        return {}
    outputs, held = zip(*terms, strict=True)
    [slope] = torch.autograd.grad(outputs, [t], held, create_graph=True, allow_unused=True)
    if slope is None or not slope.requires_grad:
        return {}
    found = torch.autograd.grad(slope, list(weights.values()), allow_unused=True)
    return {name: g for name, g in zip(weights, found, strict=True) if g is not None}


def _outputs(graph: ChannelGraph, tape: Tape, names: set[str]) -> dict[int, Ref]:
    """What each operation makes that multiplies an activation by one of these weights."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(graph.model).items()}
    flow = DimFlow(shapes, graph.flow.aliases)
    propagate(flow, tape)
    return {
        read.op: tape.ops[read.op].results()[0]
        for read in flow.contractions
        if names.intersection(read.names) and not flow.is_weight(read.source)
    }
