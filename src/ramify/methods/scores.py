"""Scores for pruning: the least important channels by weights, norm scales or first order.

Shape letters: `S` samples, `W` channels of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ramify import distributed
from ramify.cost import CostModel
from ramify.edit import Prune
from ramify.edit.plan import check_editable
from ramify.errors import RamifyError
from ramify.methods.draws import producer_kernels
from ramify.methods.proposal import Proposal, best_first
from ramify.probe.loss import Loss, check_real, check_weights, each_batch
from ramify.probe.reads import first_order
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.indexing import kernels
from ramify.tracing.recorder import Ref, tensors_of


@dataclass(frozen=True)
class L1:
    r"""Prune the channels with the smallest incoming weights.

    .. math:: s_c = \sum_j \lVert \theta_{jc} \rVert_1 \Big/
              \tfrac1W \sum_{c'} \sum_j \lVert \theta_{jc'} \rVert_1

    over the group's producers j, without biases. Within a group this is the order of the paper,
    which prunes layer by layer; dividing by the mean of the group makes channels of layers with few
    and with many incoming weights comparable.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best = L1().propose(graph, loss, [])[0]
        >>> best.edit.channel == int(net[0].weight.abs().sum(1).argmin())
        True

    Source: H. Li and others, "Pruning filters for efficient ConvNets", 2017, section 3.1.
    """

    def propose(
        self, graph: ChannelGraph, loss: Loss | None = None, batches: Iterable[Any] = ()
    ) -> list[Proposal]:
        """A prune of every removable channel, smallest norm first; no batch is used.

        Args:
            graph: the traced model.
            loss: as for other methods; not used.
            batches: as for other methods; not used.

        Returns:
            The proposals; `score` is -s, `gain` is 0.
        """
        check_editable(graph)
        tensors = tensors_of(graph.model)
        norms: dict[str, Tensor] = {}
        for group in prunable(graph):
            every = producer_kernels(graph, group)
            made = [every[n] for n in every if tensors[n].dim() > 1] or list(every.values())
            total = torch.stack([k.abs().double().reshape(len(k), -1).sum(1) for k in made]).sum(0)
            norms[group.name] = total / total.mean().clamp_min(torch.finfo(total.dtype).tiny)
        return prunes(graph, norms)


@dataclass(frozen=True)
class BNScale:
    r"""Prune the channels with the smallest norm scales: network slimming.

    The score of a channel is :math:`|\gamma_c|`, or their mean where several norm layers scale the
    channel (a residual stream, a depthwise chain). Channels of all groups are ranked together, as
    in the paper; groups without a norm layer are left out. The score is informative only after
    training with an L1 penalty on γ.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best = BNScale().propose(graph, loss, [])[0]
        >>> best.edit.channel == int(net[1].weight.abs().argmin())
        True

    Source: Z. Liu and others, "Learning efficient convolutional networks through network slimming",
    2017, section 3.
    """

    def propose(
        self, graph: ChannelGraph, loss: Loss | None = None, batches: Iterable[Any] = ()
    ) -> list[Proposal]:
        """A prune of every channel that a norm layer scales, smallest first; no batch is used.

        Args:
            graph: the traced model.
            loss: as for other methods; not used.
            batches: as for other methods; not used.

        Returns:
            The proposals; `score` is minus the scale, `gain` is 0.

        Raises:
            RamifyError: no removable channel has a norm layer with a scale.
        """
        check_editable(graph)
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

    with :math:`a_k` what consumer k reads of the channel and :math:`g_k` the gradient of sample s's
    loss at that consumer's own read, so that residual paths count once: `p_s` is the first-order
    change of the loss when the channel is set to zero wherever it is read. The paper averages over
    positions and then has to normalise each layer; the sum used here is in units of the loss, and
    channels of all layers are ranked together.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best, *others = Taylor().propose(graph, loss, [x])
        >>> best.score <= 0 and len(others) == 2  # minus the mean absolute change, equation (8)
        True

    Source: P. Molchanov and others, "Pruning convolutional neural networks for resource efficient
    inference", 2017, equation (8) and section 2.2: the absolute value is taken per example.
    """

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """A prune of every removable channel that a weight reads, least important first.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the sample to average over.

        Returns:
            The proposals; `score` is -Θ, and `gain` is the first-order decrease of the mean loss,
            -mean p, which is small at a minimum for any channel: rank by the score.

        Raises:
            RamifyError: no batch, the loss is not per sample, or loss or weights are not finite.
        """
        check_editable(graph)
        check_weights(graph.model)
        check_real(graph.model)
        groups = prunable(graph)
        if not groups:
            return []
        # Sums of |p| and of -p over all samples; what a batch does not read counts as 0 there, as
        # the experts that no token of it is routed to.
        sums = {group.name: torch.zeros(2, group.width, dtype=torch.float64) for group in groups}
        samples, times_read = torch.zeros(()), torch.zeros(len(groups))
        for batch in each_batch(batches):
            found = first_order(graph, loss, batch, groups)
            for name, p in found.items():
                sums[name] += torch.stack([p.abs().sum(0), -p.sum(0)]).cpu()
            samples += max(map(len, found.values()), default=0)
            times_read += torch.tensor([float(group.name in found) for group in groups])
        *totals, samples, times_read = distributed.all_sum([*sums.values(), samples, times_read])
        if not samples:
            raise RamifyError(
                "there is no batch, or the loss depends on no channel that could be pruned: give "
                "at least one batch, and return what the model's outputs give, without .detach()"
            )
        means = {
            name: total / samples
            for name, total, times in zip(sums, totals, times_read, strict=True)
            if times
        }
        sizes = {name: size for name, (size, _) in means.items()}
        return prunes(graph, sizes, {name: gain for name, (_, gain) in means.items()})


def prunable(graph: ChannelGraph) -> list[ChannelGroup]:
    """The groups that can lose a channel."""
    return [group for group in graph.groups if group.can_prune]


def prunes(
    graph: ChannelGraph, values: Mapping[str, Tensor], gains: Mapping[str, Tensor] | None = None
) -> list[Proposal]:
    """A prune of every channel, smallest value first.

    Args:
        graph: the traced model.
        values: group -> (W,), the importance of each channel.
        gains: group -> (W,), the decrease of the mean loss, where it is known.

    Returns:
        The proposals; `score` is minus the value.
    """
    prices, out = CostModel(graph), []
    for name, own in values.items():
        cost = prices.added([Prune(name, 0)])
        expected = gains[name].tolist() if gains else [0.0] * len(own)
        for channel, (value, gain) in enumerate(zip(own.tolist(), expected, strict=True)):
            out.append(Proposal(Prune(name, channel), gain, cost, score=-value, graph=graph))
    return best_first(out)


def norm_scales(graph: ChannelGraph) -> set[str]:
    """The weights of norm layers: of torch's modules, and of norm operations on the tape."""
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
