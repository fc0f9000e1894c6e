"""Products with the splitting matrices of all channels at once.

With every producer's input and every consumer's own gradient fixed, the contribution of a group to
the loss is `Q(θ) = Σ_k ⟨a_k(θ), g_k⟩` over its reads k. Its Hessian is block diagonal over channels
(S2D, Theorem 2.4) and its blocks are the splitting matrices, so one product with the whole Hessian
serves every channel at once.

The tape of the user's own loss is replayed twice with autograd: once completely, for the gradients
at each consumer's own read; once cut at every read, for Q.

Shape letters: `W` channels of a group, `D` parameters of one channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ramify import distributed
from ramify.edit.plan import check_editable
from ramify.errors import RamifyError, derivatives
from ramify.probe.lanczos import Vectors
from ramify.probe.loss import Loss, check_real, check_weights, checked_loss, each_batch
from ramify.probe.recorded_pass import read_gradients
from ramify.probe.replay import decomposed, replay
from ramify.probe.targets import Target, independent_sets, targets
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.dims import atoms_of, leaves
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import kernels
from ramify.tracing.propagate import propagate
from ramify.tracing.recorder import Ref, Tape, record, tensors_of


class SplittingOperator:
    """v -> S·v for every channel of every target, over one batch.

    The graph of Q is built once and kept; a product costs one double-backward pass through the
    producers and the channelwise paths. Where activations are multiplied and summed over a group's
    channels, Z = Σ_c q_c k_cᵀ, that sum is its read: ⟨Z(θ), ∂L/∂Z⟩ is bilinear in each channel's
    own rows and has no terms between channels. The path of a whole head runs through the same
    product and its softmax, so targets of the two kinds are cut separately.

    Args:
        graph: the traced model.
        chosen: its targets.
        loss: `loss(model, batch)` -> (S,).
        batch: one batch.
        beta: softplus sharpness at the kinks of piecewise-linear activations; None: no curvature.

    Attributes:
        samples: S.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        chosen: Sequence[Target],
        loss: Loss,
        batch: Any,
        beta: float | None,
    ) -> None:
        with decomposed(graph.model):
            run = lambda: checked_loss(loss, graph.model, batch)  # noqa: E731
            tape = record(graph.model, run, batch, draws=True)
        self.samples = int(tape.results[0].numel())
        self._targets = chosen
        self._blocks = []
        for numbers in independent_sets(graph, chosen):
            some = [chosen[n] for n in numbers]
            reads = _reads(graph, tape, some if some[0].multiplied else ())
            self._blocks.append((numbers, _IndependentOperator(graph, some, tape, reads, beta)))

    def gradient(self) -> Vectors:
        """The mean loss gradient of each channel's own parameters: one (W, D) per target."""
        return self._each(lambda block, _: block.gradient())

    def product(self, vectors: Vectors) -> Vectors:
        """S·v: one (W, D) per target, for one vector per channel."""
        return self._each(lambda block, numbers: block.product([vectors[n] for n in numbers]))

    def as_kernels(self, target: Target, vectors: Tensor) -> list[Tensor]:
        """A target's (W, D) vectors as kernels: one (W, *kernel) per producer."""
        number = self._targets.index(target)
        block = next(block for numbers, block in self._blocks if number in numbers)
        return block.as_kernels(target, vectors)

    def _each(self, ask: Callable[[_IndependentOperator, list[int]], Vectors]) -> Vectors:
        found: dict[int, Tensor] = {}
        for numbers, block in self._blocks:
            found.update(zip(numbers, ask(block, numbers), strict=True))
        return [found[n] for n in range(len(self._targets))]


class _IndependentOperator:
    """The Hessian of Q for targets that can be probed at once, with the tape cut at their reads."""

    def __init__(
        self,
        graph: ChannelGraph,
        chosen: Sequence[Target],
        tape: Tape,
        reads: Mapping[int, Ref],
        beta: float | None,
    ) -> None:
        self._targets = chosen
        constants = {n: t.detach() for n, t in tensors_of(graph.model).items()}
        gradients = read_gradients(tape, constants, reads)
        names = dict.fromkeys(kernel.name for target in chosen for kernel in target.kernels)
        self._thetas = {n: constants[n].clone().requires_grad_() for n in names}
        terms: list[tuple[Tensor, Tensor]] = []

        def cut(position: int, tensor: Tensor) -> Tensor:
            # The read enters Q; later operations get only its value, detached from autograd.
            if position in gradients and tensor.requires_grad:
                terms.append((tensor, gradients[position]))
            held = tensor.detach()
            return held.clone() if tape.ops[position].is_mutable else held

        with torch.enable_grad():
            last = max(reads, default=-1)
            replay(tape, constants | self._thetas, reads, cut, beta=beta, until=last)
            self._slopes = self._derive(terms)

    def _derive(self, terms: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The gradient of Q, the sum over reads of ⟨read, gradient held constant⟩."""
        if not terms:
            return {}
        reads, held = zip(*terms, strict=True)
        variables = list(self._thetas.values())
        slopes = torch.autograd.grad(reads, variables, held, create_graph=True, allow_unused=True)
        by_name = zip(self._thetas, slopes, strict=True)
        return {n: g for n, g in by_name if g is not None and g.requires_grad}

    def gradient(self) -> Vectors:
        """The mean loss gradient of each channel's own parameters: one (W, D) per target."""
        return self._gather(self._slopes)

    @derivatives()
    def product(self, vectors: Vectors) -> Vectors:
        """S·v: one (W, D) per target, for one vector per channel."""
        if not self._slopes:
            return [torch.zeros_like(vector) for vector in vectors]
        spread = self._scatter(vectors)
        outputs = list(self._slopes.values())
        products = torch.autograd.grad(
            outputs,
            list(self._thetas.values()),
            grad_outputs=[spread[name] for name in self._slopes],
            retain_graph=True,
            allow_unused=True,
        )
        by_name = zip(self._thetas, products, strict=True)
        return self._gather({n: p for n, p in by_name if p is not None})

    def _gather(self, tensors: Mapping[str, Tensor]) -> Vectors:
        """From parameters to one vector per channel: its kernels of all producers, concatenated."""
        out = []
        for target in self._targets:
            parts = [
                kernels(
                    tensors.get(k.name, torch.zeros_like(self._thetas[k.name])), k.dim, k.positions
                )
                for k in target.kernels
            ]
            flat = [part.detach().reshape(target.group.width, -1) for part in parts]
            out.append(torch.cat(flat, dim=1))
        return out

    def _scatter(self, vectors: Vectors) -> dict[str, Tensor]:
        """From one vector per channel to parameters; entries outside the targets are zero."""
        spread = {name: torch.zeros_like(theta) for name, theta in self._thetas.items()}
        for target, vector in zip(self._targets, vectors, strict=True):
            for kernel, values in zip(target.kernels, self.as_kernels(target, vector), strict=True):
                rows = spread[kernel.name].movedim(kernel.dim, 0)
                where = torch.from_numpy(kernel.positions).to(rows.device)
                rows[where] = values.view(rows[where].shape).to(rows.dtype)
        return spread

    def as_kernels(self, target: Target, vectors: Tensor) -> list[Tensor]:
        """A target's (W, D) vectors as kernels: one (W, *kernel) per producer."""
        out, start = [], 0
        for kernel in target.kernels:
            like = kernels(self._thetas[kernel.name].detach(), kernel.dim, kernel.positions)
            size = int(np.prod(like.shape[1:]))
            out.append(vectors[:, start : start + size].view(like.shape))
            start += size
        return out


def _reads(graph: ChannelGraph, tape: Tape, multiplied: Sequence[Target]) -> dict[int, Ref]:
    """Every operation that sums over an activation's channels with a weight, with its activation.

    For targets that are multiplied, it is every operation that computes their product, with it.

    Returns:
        Operation -> the tensor that it reads, or outputs.
    """
    flow = DimFlow(graph.flow.param_shapes, graph.flow.aliases)
    propagate(flow, tape)
    own = {
        atom
        for target in multiplied
        for kernel in target.kernels
        for atom in leaves(flow.param_dims[kernel.name][kernel.dim])
    }
    products = {
        read.op: tape.ops[read.op].results()[0]
        for read in flow.contractions
        if not read.names and not own.isdisjoint(atoms_of(read.read))
    }
    weighted = {
        read.op: read.source
        for read in flow.contractions
        if read.names and read.read and not flow.is_weight(read.source)
    }
    return products | weighted


def splitting_operators(
    graph: ChannelGraph,
    loss: Loss,
    batches: Iterable[Any],
    beta: float | None,
    only: ChannelGroup | None = None,
) -> tuple[list[Target], list[SplittingOperator]]:
    """One operator per batch of a sample.

    Args:
        graph: the traced model.
        loss: `loss(model, batch)` -> (S,).
        batches: the sample.
        beta: softplus sharpness at the kinks of piecewise-linear activations; None: no curvature.
        only: the group to probe; None for all that can be.

    Returns:
        The groups that are probed, and the operators.

    Raises:
        RamifyError: no batch, no group to probe, or a loss or weight that is not finite.
    """
    check_editable(graph)
    check_weights(graph.model)
    check_real(graph.model)
    chosen = [target for target in targets(graph) if only is None or target.group is only]
    operators = [
        SplittingOperator(graph, chosen, loss, batch, beta) for batch in each_batch(batches)
    ]
    if not operators:
        raise RamifyError("there is no batch to probe on: give at least one")
    return chosen, operators


def mean_product(operators: Sequence[SplittingOperator], vectors: Vectors) -> Vectors:
    """S·v over all batches of all ranks, with equal weight for each sample."""
    total = sum(operator.samples for operator in operators)
    out: Vectors = []
    for operator in operators:
        part = [p * (operator.samples / total) for p in operator.product(vectors)]
        out = [a + b for a, b in zip(out, part, strict=True)] if out else part
    return distributed.all_mean(out, total)
