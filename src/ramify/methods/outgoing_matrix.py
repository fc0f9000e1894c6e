r"""The gradient of a new neuron's outgoing weights, to first order in its incoming weights.

Add a neuron with incoming weights θ and outgoing weights w = 0, and linearise its path
:math:`a_k(\theta)` to consumer k around a start. The gradient of the mean loss with respect to w is
then linear in θ, and its matrix is the mixed second derivative

.. math:: M = \frac{\partial^2 L}{\partial w \, \partial \theta} =
          \mathbb{E}\Bigl[\sum_p g_k(p) \otimes J_k(p)\Bigr]

with :math:`g_k` the gradient at the consumer's own output, p its positions and taps, and
:math:`J_k` the derivative of what it reads by θ: for two consecutive layers, the input of the first
times the slope of what is between them. While w is 0 the loss does not depend on θ. So one
derivative by the incoming weights of many new neurons at once, each along its own direction, can be
differentiated by the outgoing weights of each, which gives one column of M for every neuron.

Shape letters: `N` new neurons, `D` incoming weights of one, `R` outgoing weights of one, `K` rows
of a weight that produce one channel.

Source: U. Evci and others, "GradMax: growing neural networks using gradient information", 2022,
section 3, for two consecutive layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ramify.edit import Split
from ramify.edit.carry import displacements
from ramify.errors import derivatives
from ramify.methods.draws import Kernels
from ramify.methods.new_neurons import columns_of
from ramify.methods.trial import edited
from ramify.probe.loss import Loss, checked_loss
from ramify.probe.recorded_pass import read_gradients
from ramify.probe.replay import decomposed, replay
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.flow import DimFlow
from ramify.tracing.propagate import propagate
from ramify.tracing.recorder import Ref, Tape, record, tensors_of


@dataclass(frozen=True)
class Start:
    """The point at which the path of a new neuron is linearised.

    Attributes:
        group: the group that the neuron is added to.
        source: the channel that it copies, except for the free kernels.
        kernels: producer -> the source's kernel, for producers with kernels; biases are kept.
        free: producer -> (K,), the rows that start at zero; the others are the source's.
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
        """The device of the kernels."""
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
        """Split the source into itself and a new neuron per vector (N, D) of free weights."""
        held = self.vectors({name: kernel[None] for name, kernel in self.kernels.items()})
        offsets = {
            name: torch.cat([torch.zeros_like(moved[:1]), moved])
            for name, moved in self.whole(vectors - held).items()
        }
        return Split(self.group.name, self.source, (1.0, *[0.0] * len(vectors)), offsets)


class OutputGradients:
    """The gradient of the loss at every layer's own output, on one batch.

    Args:
        graph: the traced model.
        loss: `loss(model, batch)` -> (S,).
        batch: one batch.
    """

    def __init__(self, graph: ChannelGraph, loss: Loss, batch: Any) -> None:
        self.graph = graph
        self.run = lambda: checked_loss(loss, graph.model, batch)
        self.batch = batch
        with decomposed(graph.model):
            self._tape = record(graph.model, self.run, batch, draws=True)
        tensors = _detached(graph)
        outputs = {p: ref for p, (ref, _) in _outputs(graph, self._tape, tensors).items()}
        self._gradients = read_gradients(self._tape, tensors, outputs)

    def gradients(
        self, tape: Tape, tensors: Mapping[str, Tensor], outputs: Mapping[int, Ref]
    ) -> dict[int, Tensor]:
        """The gradients at outputs of a tape of the network with new neurons that nothing reads.

        They equal the gradients without the new neurons. Only where a layer reads channels that it
        produces, its output includes the new neurons' channels too, and all gradients are
        recomputed.

        Args:
            tape: the tape of the network with new neurons.
            tensors: its parameters and buffers.
            outputs: operation -> its output.

        Returns:
            Operation -> gradient of the mean loss.
        """
        same = [op.func for op in tape.ops] == [op.func for op in self._tape.ops]
        if same and all(
            tape.shape(ref) == self._tape.shape(self._tape.ops[position].results()[0])
            for position, ref in outputs.items()
        ):
            return {p: g for p, g in self._gradients.items() if p in outputs}
        return read_gradients(tape, tensors, outputs)


class OutgoingMatrix:
    """M of one group on one batch, as products with directions of one producer at a time.

    The graph of the first derivative by the incoming weights is built once and kept.

    Args:
        known: the gradients of the batch.
        start: the start of the new neurons.
        count: N, the number of neurons followed together.
        beta: softplus sharpness, for the slope at kinks; None for the true slope.
    """

    def __init__(
        self, known: OutputGradients, start: Start, count: int, beta: float | None
    ) -> None:
        graph = known.graph
        self._graph, self._start, self._count = graph, start, count
        zeros = torch.zeros(count, int(start.mask.sum()), device=start.device)
        with edited(graph, [start.split(zeros)]) as plan, decomposed(graph.model):
            tape = record(graph.model, known.run, known.batch, draws=True)
            tensors = _detached(graph)
            outputs = _outputs(graph, tape, tensors)
        self._plan, self._samples = plan, tape.results[0].numel()
        [self._columns] = columns_of(graph, [start.group], plan)
        names = {column.name for column in self._columns}
        leaves = dict.fromkeys([*start.kernels, *(column.name for column in self._columns)])
        self._leaves = {name: tensors[name].clone().requires_grad_() for name in leaves}
        own = {p: ref for p, (ref, read) in outputs.items() if names.intersection(read)}
        self._slopes = self._derive(tape, tensors, own, known, beta)

    def _derive(
        self,
        tape: Tape,
        tensors: Mapping[str, Tensor],
        outputs: Mapping[int, Ref],
        known: OutputGradients,
        beta: float | None,
    ) -> dict[str, Tensor]:
        """∂Q/∂θ, of the sum Q over consumers of ⟨output, gradient held constant⟩."""
        gradients = known.gradients(tape, tensors, outputs)
        terms: list[tuple[Tensor, Tensor]] = []

        def cut(position: int, tensor: Tensor) -> Tensor:
            # A consumer's output enters the sum; later operations get only its value.
            if position in gradients and tensor.requires_grad:
                terms.append((tensor, gradients[position] * self._samples))
            return tensor.detach().clone()

        with torch.enable_grad():
            given, last = {**tensors, **self._leaves}, max(outputs, default=-1)
            replay(tape, given, outputs, cut, beta=beta, slopes=beta is not None, until=last)
            if not terms:
                return {}
            made, held = zip(*terms, strict=True)
            theta = {name: self._leaves[name] for name in self._start.kernels}
            slopes = torch.autograd.grad(
                made, list(theta.values()), held, create_graph=True, allow_unused=True
            )
        found = zip(theta, slopes, strict=True)
        return {name: g for name, g in found if g is not None and g.requires_grad}

    def times(self, name: str, directions: Tensor) -> Tensor:
        """M times directions of one producer, for the sum of the losses.

        Args:
            name: the producer.
            directions: (any number, *kernel).

        Returns:
            For each, the gradient with respect to the R outgoing weights, in float64.
        """
        parts = [self._some(name, part) for part in directions.split(self._count)]
        return torch.cat(parts)

    @derivatives()
    def _some(self, name: str, directions: Tensor) -> Tensor:
        weights = {column.name: self._leaves[column.name] for column in self._columns}
        found = {reader: torch.zeros_like(weight) for reader, weight in weights.items()}
        if name in self._slopes:
            slopes = torch.autograd.grad(
                self._slopes[name],
                list(weights.values()),
                self._move(name, directions),
                retain_graph=True,
                allow_unused=True,
            )
            found |= {n: g for n, g in zip(weights, slopes, strict=True) if g is not None}
        every = torch.cat([column.part(found[column.name]) for column in self._columns], dim=1)
        return every[: len(directions)].double()

    def _move(self, name: str, directions: Tensor) -> Tensor:
        """Each new neuron's own direction, in a tensor of the producer's shape after the edit."""
        [(group, split, copies)] = self._plan.splits
        offsets = directions.new_zeros(len(copies), *directions.shape[1:])
        offsets[1 : 1 + len(directions)] = directions
        moved = replace(
            self._plan, splits=[(group, replace(split, offsets={name: offsets}), copies)]
        )
        out = torch.zeros_like(self._leaves[name], requires_grad=False)
        for dim, where, value in displacements(moved, name, self._graph):
            out.movedim(dim, 0)[where.to(out.device)] += value.to(out)
        return out


def _detached(graph: ChannelGraph) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors_of(graph.model).items()}


def _outputs(
    graph: ChannelGraph, tape: Tape, tensors: Mapping[str, Tensor]
) -> dict[int, tuple[Ref, frozenset[str]]]:
    """The output of each operation that multiplies an activation by a weight, and that weight."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    flow = DimFlow(shapes, graph.flow.aliases)
    propagate(flow, tape)
    return {
        read.op: (tape.ops[read.op].results()[0], read.names)
        for read in flow.contractions
        if read.names and not flow.is_weight(read.source)
    }
