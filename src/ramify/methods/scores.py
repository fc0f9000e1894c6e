"""Scores for shrinking: which channels matter least, by weights, norm scales or first order.

Shape letters: `S` samples, `W` channels of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.cost import CostModel
from ramify.edit import Prune
from ramify.edit.plan import check_current
from ramify.errors import RamifyError
from ramify.methods.draws import producer_kernels
from ramify.methods.proposal import Proposal
from ramify.probe.replay import replay
from ramify.probe.splitting_matrix import Loss, check_weights, checked_loss, written_out
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.dims import Atom, atoms_of, leaves, resolve
from ramify.tracing.flow import DimFlow
from ramify.tracing.indexing import kernels, owners
from ramify.tracing.propagate import propagate
from ramify.tracing.recorder import Ref, Tape, record, tensors_of


@dataclass(frozen=True)
class L1:
    r"""Prune the channels with the smallest incoming weights.

    .. math:: s_c = \sum_j \lVert \theta_{jc} \rVert_1 \Big/
              \tfrac1W \sum_{c'} \sum_j \lVert \theta_{jc'} \rVert_1

    over the group's producers j, biases left out. Within a group that is the order of the paper,
    which prunes layer by layer; over the mean of the group, channels of layers with few and with
    many incoming weights can be ranked together.

    Source: H. Li and others, "Pruning filters for efficient ConvNets", 2017, section 3.1.
    """

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """A prune of every channel that can go, smallest norm first; no batch is looked at.

        Args:
            graph: the traced model.
            loss: as other methods take it.
            batches: as other methods take them.

        Returns:
            The proposals; `score` is -s, `gain` is 0.
        """
        check_current(graph)
        tensors = tensors_of(graph.model)
        norms: dict[str, Tensor] = {}
        for group in prunable(graph):
            every = producer_kernels(graph, group)
            made = [every[n] for n in every if tensors[n].dim() > 1] or list(every.values())
            total = torch.stack([k.double().abs().reshape(len(k), -1).sum(1) for k in made]).sum(0)
            norms[group.name] = total / total.mean().clamp_min(torch.finfo(total.dtype).tiny)
        return prunes(graph, norms)


@dataclass(frozen=True)
class BNScale:
    r"""Prune the channels with the smallest norm scales: network slimming.

    The score of a channel is :math:`|\gamma_c|`, their mean where several norm layers carry it
    (a residual stream, a depthwise chain). Channels of all groups are ranked together, as in the
    paper; groups without a norm layer are left out. Train with an L1 penalty on γ for this to say
    much.

    Source: Z. Liu and others, "Learning efficient convolutional networks through network slimming",
    2017, section 3.
    """

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """A prune of every channel that a norm layer scales, smallest first; no batch is needed.

        Args:
            graph: the traced model.
            loss: as other methods take it.
            batches: as other methods take them.

        Returns:
            The proposals; `score` is minus the scale, `gain` is 0.

        Raises:
            RamifyError: no channel that could be pruned has a norm layer with a scale.
        """
        check_current(graph)
        tensors, known = tensors_of(graph.model), norm_scales(graph)
        scales: dict[str, Tensor] = {}
        for group in prunable(graph):
            found = [
                kernels(tensors[s.name].detach(), s.dim, graph.positions(group, s))
                for s in group.slots
                if s.role == "carrier" and s.name in known
            ]
            if found:
                each = [scale.double().abs().reshape(len(scale), -1).mean(1) for scale in found]
                scales[group.name] = torch.stack(each).mean(0)
        if not scales:
            raise RamifyError(
                "no channel that could be pruned passes a norm layer with a scale, which is what "
                "BNScale ranks by: use L1 or Taylor for this model"
            )
        return prunes(graph, scales)


@dataclass(frozen=True)
class Taylor:
    r"""Prune the channels whose removal changes the losses least, to first order.

    .. math:: p_s = -\sum_k \langle a_k, g_k \rangle, \quad
              \Theta_c = \mathbb{E}_s \, |p_s|

    with :math:`a_k` what consumer k reads of the channel and :math:`g_k` the gradient of sample
    s's loss to that consumer's own read, so that residual paths count once: `p_s` is the
    first-order change of the loss when the channel is zero wherever it is read. The paper averages
    over positions and then has to normalise each layer; the sum is in units of the loss, and
    channels of all layers are ranked together.

    Source: P. Molchanov and others, "Pruning convolutional neural networks for resource efficient
    inference", 2017, equation (8) and section 2.2: the absolute value, for each example.
    """

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """A prune of every channel that can go and is read with a weight, least needed first.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number a sample.
            batches: the sample to average over.

        Returns:
            The proposals; `score` is -Θ, and `gain` is the first-order decrease of the mean loss,
            -mean p, which is small at a minimum whatever the channel is worth: rank by the score.

        Raises:
            RamifyError: no batch, the loss is not per sample, or loss or weights are not finite.
        """
        check_current(graph)
        check_weights(graph.model)
        if not prunable(graph):
            return []
        found: dict[str, list[Tensor]] = {}
        for batch in batches:
            for name, changes in first_order(graph, loss, batch).items():
                found.setdefault(name, []).append(changes.double())
        if not found:
            raise RamifyError(
                "there is no batch on which a channel that could be pruned is read: give at least "
                "one batch"
            )
        every = [torch.cat(changes) for changes in found.values()]  # (S, W) each
        means = [torch.stack([changes.abs().mean(0), -changes.mean(0)]) for changes in every]
        pairs = dict(zip(found, distributed.all_mean(means, len(every[0])), strict=True))
        sizes = {name: size for name, (size, _) in pairs.items()}
        return prunes(graph, sizes, {name: gain for name, (_, gain) in pairs.items()})


def first_order(graph: ChannelGraph, loss: Loss, batch: Any) -> dict[str, Tensor]:
    """The first-order change of every sample's loss when a channel is zero wherever it is read.

    Args:
        graph: the traced model.
        loss: `loss(model, batch)` -> (S,).
        batch: what the user's data gives.

    Returns:
        For each group that can be pruned and is read: p of shape (S, W).

    Raises:
        RamifyError: the loss is not per sample, or not finite.
    """
    run = lambda: checked_loss(loss, graph.model, batch)  # noqa: E731
    with written_out(graph.model):
        tape = record(graph.model, run, batch, draws=True)
    reads = _reads(graph, tape)
    copies: dict[int, Tensor] = {}

    def watch(position: int, tensor: Tensor) -> Tensor:
        own = tensor.clone() if tensor.requires_grad else tensor.clone().requires_grad_()
        copies[position] = own
        return own

    constants = {name: t.detach() for name, t in tensors_of(graph.model).items()}
    sources = {read.position: read.source for read in reads}
    with torch.enable_grad():
        losses = replay(tape, constants, sources, watch)[tape.outputs[0].index]
        return _changes(reads, copies, losses)


@dataclass(frozen=True, eq=False)
class _Read:
    """One operation that sums over a group's channels along `dim` of the tensor that it reads."""

    position: int
    source: Ref
    group: ChannelGroup
    dim: int
    owner: Tensor
    """The channel at each position along `dim`, or W where there is none."""

    def by_channel(self, product: Tensor) -> Tensor:
        """(S, positions) -> (S, W)."""
        out = product.new_zeros(len(product), self.group.width + 1)
        return out.index_add(1, self.owner.to(product.device), product)[:, :-1]


def _reads(graph: ChannelGraph, tape: Tape) -> list[_Read]:
    """Every read of a prunable group; of a product of two activations, one side."""
    flow = DimFlow(graph.flow.param_shapes, graph.flow.aliases)
    propagate(flow, tape)
    known: dict[Atom, ChannelGroup] = {}
    groups = {group.atom: group for group in prunable(graph)}
    for name, slot in graph.flow.param_dims.items():
        for old, new in zip(slot, flow.param_dims[name], strict=True):
            pairs = list(zip(leaves(old), leaves(new), strict=False))
            known.update({b: groups[a] for a, b in pairs if a in groups and a.size == b.size})
    out = []
    for read in flow.contractions:
        if flow.is_weight(read.source) or not tape.dtypes[read.source.index].is_floating_point:
            continue
        for atom in atoms_of(read.read) & known.keys():
            terms = [resolve(term) for term in flow.tensor_dims[read.source.index]]
            dim = next((d for d, term in enumerate(terms) if atom in leaves(term)), None)
            if dim is not None:
                owner = torch.from_numpy(owners(terms[dim], atom))
                owner = torch.where(owner < 0, atom.size, owner)
                out.append(_Read(read.op, read.source, known[atom], dim, owner))
    return out


def _changes(
    reads: Sequence[_Read], copies: Mapping[int, Tensor], losses: Tensor
) -> dict[str, Tensor]:
    """-⟨a, g⟩ of every sample, summed over reads; one backward pass where samples lie apart."""
    samples, positions = len(losses), list(copies)

    def products(weights: Tensor) -> dict[int, Tensor]:
        if not positions or not losses.requires_grad:
            return {}
        slopes = torch.autograd.grad(
            losses, list(copies.values()), weights, retain_graph=True, allow_unused=True
        )
        named = zip(positions, slopes, strict=True)
        return {n: (copies[n] * g).detach() for n, g in named if g is not None}

    one = torch.eye(samples, dtype=losses.dtype, device=losses.device)
    ends = products(one[0]), products(one[-1])
    views = {read: _samples_apart(read, ends, samples) for read in reads}
    out: dict[str, Tensor] = {}
    if samples > 1 and all(views.values()):
        every = products(torch.ones_like(losses))
        for read in reads:
            view = views[read]
            if view is not None and read.position in every:
                _add(out, read, read.by_channel(_rows(every[read.position], read.dim, view)))
        return out
    for sample in range(samples):  # in the general case, one backward pass each
        alone = products(one[sample])
        for read in reads:
            if read.position in alone:
                product = alone[read.position]
                row = read.by_channel(
                    product.movedim(read.dim, 0).reshape(product.shape[read.dim], -1).sum(1)[None]
                )
                _add(out, read, row * one[sample][:, None].to(row))
    return out


def _add(out: dict[str, Tensor], read: _Read, product: Tensor) -> None:
    name = read.group.name
    out[name] = out[name] - product if name in out else -product


@dataclass(frozen=True)
class _View:
    """Samples lie along `axis`: as whole blocks (outer), or side by side in every block."""

    axis: int
    samples: int
    outer: bool

    def apart(self, tensor: Tensor) -> Tensor:
        """(S, positions along the axis of one sample, *the other dimensions)."""
        moved, count = tensor.movedim(self.axis, 0), tensor.shape[self.axis] // self.samples
        if self.outer:
            return moved.unflatten(0, (self.samples, count))
        return moved.unflatten(0, (count, self.samples)).transpose(0, 1)


def _samples_apart(read: _Read, ends: Sequence[Mapping[int, Tensor]], samples: int) -> _View | None:
    """Where the samples lie in what is read, judged by what the first and the last loss reach."""
    first, last = (end.get(read.position) for end in ends)
    if first is None or last is None or not bool(first.any()) or not bool(last.any()):
        return None
    for axis in range(first.dim()):
        if axis == read.dim or first.shape[axis] % samples:
            continue
        for outer in (True, False):
            view = _View(axis, samples, outer)
            if not bool(view.apart(first)[1:].any()) and not bool(view.apart(last)[:-1].any()):
                return view
    return None


def _rows(product: Tensor, dim: int, view: _View) -> Tensor:
    """(S, positions along `dim`): summed over everything else."""
    apart = view.apart(product)
    place = 2 + (dim if dim < view.axis else dim - 1)
    front = apart.movedim(place, 1)
    return front.reshape(*front.shape[:2], -1).sum(2)


def prunable(graph: ChannelGraph) -> list[ChannelGroup]:
    """The groups that can lose a channel."""
    return [group for group in graph.groups if group.can_prune]


def prunes(
    graph: ChannelGraph, values: Mapping[str, Tensor], gains: Mapping[str, Tensor] | None = None
) -> list[Proposal]:
    """A prune of every channel, those of the smallest values first.

    Args:
        graph: the traced model.
        values: group -> (W,), what each channel is worth.
        gains: group -> (W,), the decrease of the mean loss, where that is known.

    Returns:
        The proposals; `score` is minus the value.
    """
    prices, out = CostModel(graph), []
    for name, own in values.items():
        cost = prices.added([Prune(name, 0)])
        expected = gains[name].tolist() if gains else [0.0] * len(own)
        for channel, (value, gain) in enumerate(zip(own.tolist(), expected, strict=True)):
            out.append(Proposal(Prune(name, channel), gain, cost, score=-value, graph=graph))
    return sorted(out, key=lambda proposal: -proposal.value)


def norm_scales(graph: ChannelGraph) -> set[str]:
    """The weights of norm layers: of torch's modules, and of norm operations that ran."""
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    found = {
        f"{name}.weight" if name else "weight"
        for name, module in graph.model.named_modules()
        if isinstance(module, kinds)
    }
    for tape in graph.tapes:
        for op in tape.ops:
            weight = op.named().get("weight")
            if "norm" in op.name and isinstance(weight, Ref) and weight.index in tape.names:
                found.add(tape.names[weight.index])
    return {graph.flow.aliases.get(name, name) for name in found}
