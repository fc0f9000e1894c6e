"""The probe: how the loss answers when one channel is split, for all channels in one pass.

With every producer's input and every consumer's own gradient held, what a group contributes is
`Q(θ) = Σ_k ⟨a_k(θ), g_k⟩` over its reads k (DESIGN: twin reads). Its Hessian is block diagonal
over channels (S2D, Theorem 2.4) and its blocks are the splitting matrices, so one product with
the whole Hessian serves every channel at once.

The tape of the user's own loss is replayed twice with autograd: once whole, for the gradients at
each consumer's own read; once cut at every read, for Q.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ramify import distributed
from ramify.edit.plan import check_current
from ramify.errors import RamifyError
from ramify.probe.recorded_pass import read_gradients
from ramify.probe.replay import replay
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.attention.factors import scalable_products
from ramify.tracing.dims import atoms_of, leaves
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import kernels
from ramify.tracing.propagate import propagate
from ramify.tracing.recorder import (
    Ref,
    Tape,
    record,
    recurrent_layers_written_out,
    tensors_of,
)

Loss = Callable[[nn.Module, Any], Tensor]
Vectors = list[Tensor]


@dataclass(frozen=True)
class Kernel:
    """One producer's part of a group: its slot, and where each channel lies in it."""

    name: str
    dim: int
    where: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Target:
    """A group that can be probed, and the kernels of its producers in order."""

    group: ChannelGroup
    kernels: tuple[Kernel, ...]
    factor: bool = False
    """Whether a product of activations sums over the channels, as q·kᵀ does over a head's."""


def targets(graph: ChannelGraph) -> list[Target]:
    """Every group whose channelwise path the probe can follow from producers to consumers.

    A grouped convolution on the path (whole groups as channels) sums over other channels and is
    not followed; nor is a group made by a layer that carries another group.

    Args:
        graph: the traced model.

    Returns:
        The targets, in forward order.
    """
    summing = {n for read in graph.flow.contractions if atoms_of(read.read) for n in read.names}
    able = [
        group
        for group in graph.groups
        if group.can_split and not summing.intersection(group.carriers)
    ]
    multiplied = scalable_products(graph.flow)
    carried = {name for group in able for name in group.carriers}
    found = []
    for group in able:
        if carried.intersection(group.producers):
            continue
        slots = [slot for slot in group.slots if slot.role == "producer"]
        parts = tuple(Kernel(s.name, s.dim, graph.positions(group, s)) for s in slots)
        found.append(Target(group, parts, group.atom in multiplied))
    return found


def apart(graph: ChannelGraph, found: Sequence[Target]) -> list[list[int]]:
    """Targets that can be probed in one pass, by number.

    Two groups over the same rows or columns (the heads, and the channels inside a head), or made by
    a weight along two of its dimensions, are probed one after the other; so are groups whose
    channels a product sums over, and groups whose path crosses it.

    Args:
        graph: the traced model.
        found: its targets.

    Returns:
        As few passes as going through them in order gives.
    """
    passes: list[tuple[bool, set[tuple[str, int, int]], dict[str, int], list[int]]] = []
    for number, target in enumerate(found):
        own = {
            (slot.name, slot.dim, int(position))
            for slot in target.group.slots
            for position in graph.positions(target.group, slot).flat
        }
        made = {part.name: part.dim for part in target.kernels}
        for factor, taken, dims, numbers in passes:
            crossed = any(dims.get(name, dim) != dim for name, dim in made.items())
            if factor is target.factor and taken.isdisjoint(own) and not crossed:
                taken |= own
                dims |= made
                numbers.append(number)
                break
        else:
            passes.append((target.factor, own, made, [number]))
    return [numbers for *_, numbers in passes]


def known_length(batches: Any) -> int | None:
    """How many batches there are, where the data says so."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:  # a DataLoader over a stream has a length only in name
        return None


class Probe:
    """S·v for every channel of every target, over one batch.

    The graph of Q is built once and kept; a product costs one double-backward pass through the
    producers and the channelwise paths. Where activations are multiplied and summed over a group's
    channels, Z = Σ_c q_c k_cᵀ, that sum is its read: ⟨Z(θ), ∂L/∂Z⟩ is bilinear in each channel's
    own rows and mixes no two channels. The path of a whole head runs through the same product and
    its softmax; so groups of the two kinds are cut apart.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        chosen: Sequence[Target],
        loss: Loss,
        batch: Any,
        beta: float | None,
    ) -> None:
        with written_out(graph.model):
            run = lambda: checked_loss(loss, graph.model, batch)  # noqa: E731
            tape = record(graph.model, run, batch, draws=True)
        self.samples = int(tape.results[0].numel())
        self._targets = chosen
        self._cuts = []
        for numbers in apart(graph, chosen):
            some = [chosen[n] for n in numbers]
            reads = _reads(graph, tape, some if some[0].factor else ())
            self._cuts.append((numbers, _Cut(graph, some, tape, reads, beta)))

    def gradient(self) -> Vectors:
        """The gradient of the mean loss to each channel's own parameters: one (W, D) a target."""
        return self._each(lambda cut, _: cut.gradient())

    def product(self, vectors: Vectors) -> Vectors:
        """S·v: one (W, D) for each target, for one vector a channel."""
        return self._each(lambda cut, numbers: cut.product([vectors[n] for n in numbers]))

    def divide(self, target: Target, vectors: Tensor) -> list[Tensor]:
        """A target's (W, D) vectors as kernels: one (W, *kernel) for each producer."""
        number = self._targets.index(target)
        cut = next(cut for numbers, cut in self._cuts if number in numbers)
        return cut.divide(target, vectors)

    def _each(self, ask: Callable[[_Cut, list[int]], Vectors]) -> Vectors:
        found: dict[int, Tensor] = {}
        for numbers, cut in self._cuts:
            found.update(zip(numbers, ask(cut, numbers), strict=True))
        return [found[n] for n in range(len(self._targets))]


class _Cut:
    """Q of some targets, the tape cut at their reads."""

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
        names = dict.fromkeys(part.name for target in chosen for part in target.kernels)
        self._thetas = {n: constants[n].clone().requires_grad_() for n in names}
        terms: list[tuple[Tensor, Tensor]] = []

        def cut(position: int, tensor: Tensor) -> Tensor:
            if position in gradients and tensor.requires_grad:
                terms.append((tensor, gradients[position]))
            held = tensor.detach()
            return held.clone() if tape.ops[position].func._schema.is_mutable else held

        with torch.enable_grad():
            last = max(reads, default=-1)
            replay(tape, constants | self._thetas, reads, cut, beta=beta, until=last)
            self._slopes = self._derive(terms)

    def _derive(self, terms: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The gradient of Q, the sum over reads of ⟨read, gradient held⟩."""
        if not terms:
            return {}
        reads, held = zip(*terms, strict=True)
        variables = list(self._thetas.values())
        slopes = torch.autograd.grad(reads, variables, held, create_graph=True, allow_unused=True)
        named = zip(self._thetas, slopes, strict=True)
        return {n: g for n, g in named if g is not None and g.requires_grad}

    def gradient(self) -> Vectors:
        """The gradient of the mean loss to each channel's own parameters: one (W, D) a target."""
        return self._gather(self._slopes)

    def product(self, vectors: Vectors) -> Vectors:
        """S·v: one (W, D) for each target, for one vector a channel."""
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
        named = zip(self._thetas, products, strict=True)
        return self._gather({n: p for n, p in named if p is not None})

    def _gather(self, tensors: Mapping[str, Tensor]) -> Vectors:
        out = []
        for target in self._targets:
            parts = [
                kernels(tensors.get(p.name, torch.zeros_like(self._thetas[p.name])), p.dim, p.where)
                for p in target.kernels
            ]
            flat = [part.detach().reshape(target.group.width, -1) for part in parts]
            out.append(torch.cat(flat, dim=1))
        return out

    def _scatter(self, vectors: Vectors) -> dict[str, Tensor]:
        spread = {name: torch.zeros_like(theta) for name, theta in self._thetas.items()}
        for target, vector in zip(self._targets, vectors, strict=True):
            for part, values in zip(target.kernels, self.divide(target, vector), strict=True):
                rows = spread[part.name].movedim(part.dim, 0)
                where = torch.from_numpy(part.where).to(rows.device)
                rows[where] = values.view(rows[where].shape).to(rows.dtype)
        return spread

    def divide(self, target: Target, vectors: Tensor) -> list[Tensor]:
        """A target's (W, D) vectors as kernels: one (W, *kernel) for each producer."""
        out, start = [], 0
        for part in target.kernels:
            like = kernels(self._thetas[part.name].detach(), part.dim, part.where)
            size = int(np.prod(like.shape[1:]))
            out.append(vectors[:, start : start + size].view(like.shape))
            start += size
        return out


def checked_loss(loss: Loss, model: nn.Module, batch: Any) -> Tensor:
    """The user's loss on a batch, one finite number a sample.

    Args:
        loss: `loss(model, batch)`.
        model: the network.
        batch: what the user's data gives.

    Returns:
        Shape (S,).

    Raises:
        RamifyError: the loss fails, is not of shape (S,), S is 0, or a value is not finite.
    """
    values = _called(loss, model, batch)
    if not isinstance(values, Tensor) or values.dim() != 1:
        seen = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values)
        raise RamifyError(
            "the loss gives one number for each sample, a tensor of shape (S,), and this one gave "
            f'{seen}: use reduction="none"'
        )
    if not len(values):
        raise RamifyError("a batch holds no sample: leave empty batches out of the data")
    if not bool(torch.isfinite(values).all()):
        worst = int((~torch.isfinite(values)).nonzero()[0])
        raise RamifyError(
            f"the loss of sample {worst} is {float(values[worst].detach())}: lower the learning "
            "rate or check the data before growing"
        )
    return values


def _called(loss: Loss, model: nn.Module, batch: Any) -> Any:
    """What the loss gives; where it fails, the error says on what."""
    try:
        return loss(model, batch)
    except (RamifyError, torch.OutOfMemoryError):
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise RamifyError(
            f"loss(model, batch) failed on a batch of type {type(batch).__name__} "
            f"({type(error).__name__}: {error}): it takes the model and one of the batches, which "
            "are given as a list or another iterable of batches, such as [batch]"
        ) from error


def check_weights(model: nn.Module) -> None:
    """Every parameter is finite.

    Raises:
        RamifyError: names the first parameter that is not.
    """
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise RamifyError(
                f"parameter '{name}' holds values that are not finite: go back to an earlier "
                "checkpoint, or lower the learning rate"
            )


def _reads(graph: ChannelGraph, tape: Tape, multiplied: Sequence[Target]) -> dict[int, Ref]:
    """Every operation that sums over an activation's channels with a weight: its activation.

    And of the targets that are multiplied, every operation that makes their product: the product.

    Returns:
        Operation -> the tensor that it reads, or makes.
    """
    flow = DimFlow(graph.flow.param_shapes, graph.flow.aliases)
    propagate(flow, tape)
    own = {
        atom
        for target in multiplied
        for part in target.kernels
        for atom in leaves(flow.param_dims[part.name][part.dim])
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


@contextlib.contextmanager
def written_out(model: nn.Module) -> Iterator[None]:
    """Fused attention and recurrent layers run as plain operations.

    These have two derivatives, and the product of queries and keys is there to be read.
    """
    with sdpa_kernel(SDPBackend.MATH), recurrent_layers_written_out(model):
        yield


def probes(
    graph: ChannelGraph, loss: Loss, batches: Iterable[Any], beta: float | None
) -> tuple[list[Target], list[Probe]]:
    """One probe for each batch of a sample.

    Args:
        graph: the traced model.
        loss: `loss(model, batch)` -> (S,).
        batches: the sample.
        beta: softplus sharpness at the kinks of piecewise-linear activations; None: no curvature.

    Returns:
        The groups that are probed, and the probes.

    Raises:
        RamifyError: no batch, no group to probe, or a loss or weight that is not finite.
    """
    check_current(graph)
    check_weights(graph.model)
    chosen = targets(graph)
    made = [Probe(graph, chosen, loss, batch, beta) for batch in batches]
    if not made:
        raise RamifyError("there is no batch to probe on: give at least one")
    return chosen, made


def mean_product(made: Sequence[Probe], vectors: Vectors) -> Vectors:
    """S·v over all batches, of all ranks that work together, each sample with the same weight."""
    total = sum(probe.samples for probe in made)
    out: Vectors = []
    for probe in made:
        part = [p * (probe.samples / total) for p in probe.product(vectors)]
        out = [a + b for a, b in zip(out, part, strict=True)] if out else part
    return distributed.all_mean(out, total)


def sizes(found: Sequence[Target], tensors: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """(W, D) of each target."""
    out = []
    for target in found:
        width = target.group.width
        cells = sum(
            tensors[p.name].numel() // tensors[p.name].shape[p.dim] * p.where.shape[1]
            for p in target.kernels
        )
        out.append((width, cells))
    return out
