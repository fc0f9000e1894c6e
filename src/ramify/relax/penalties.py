r"""Penalties P(α) on architecture parameters, for γ P(α) of the Lagrangian (2.11).

A penalty is called with the list of the architecture parameters and returns one number. A penalty
with a proximal step can be set to use it, which gives exact zeros: the searcher then takes no
gradient of it, and maps α to prox(α) after each step instead.

Shape letters: `E` edges of a cell, `O` operations of an edge, `W` channels of a group.

Source: RARTS thesis, sections 2.2.2, 3.1.4 and 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ramify.arguments import arguments_checked
from ramify.cost import RESOURCES, CostModel, graph_cost
from ramify.edit import Drop
from ramify.errors import RamifyError
from ramify.latency import LatencyModel
from ramify.latency.prediction import slopes
from ramify.methods.scores import norm_scales, prunable
from ramify.relax.gates import Gates
from ramify.relax.proximal import group_norms, prox_group_l1, prox_l1
from ramify.tracing import ChannelGraph
from ramify.tracing.recorder import tensors_of


@dataclass(frozen=True)
class L1:
    r"""The (weighted) sum of absolute values; not to be confused with the method `ramify.L1`.

    .. math:: P(\alpha) = \sum_i c_i |\alpha_i|

    Args:
        weights: c, one tensor per architecture parameter, of its shape or one that broadcasts to
            it: `channel_costs` gives the cost of a channel. None weighs all entries equally.
        by_proximal: use soft-thresholding steps instead of gradients, for exact zeros.

    Example:
        >>> L1()([torch.tensor([1.0, -2.0])])
        tensor(3.)
    """

    weights: Sequence[Tensor] | None = None
    by_proximal: bool = False

    def __call__(self, arch: Sequence[Tensor]) -> Tensor:
        """P(α), a tensor of shape ()."""
        weights = _matched(self.weights, arch)
        return torch.stack(
            [(w * alpha.abs()).sum() for w, alpha in zip(weights, arch, strict=True)]
        ).sum()

    def proximal(self, arch: Sequence[Tensor], step: float) -> None:
        """Map every entry to its soft threshold at `step · c`, in place."""
        with torch.no_grad():
            for weight, alpha in zip(_matched(self.weights, arch), arch, strict=True):
                alpha.copy_(prox_l1(alpha, step * weight))


@dataclass(frozen=True)
class GroupL1:
    r"""The sum of the Euclidean norms of groups of entries.

    .. math:: P(\alpha) = \sum_g \lVert \alpha_g \rVert_2

    Args:
        dim: each slice along this dimension is a group: with 0 the O logits of each of the E edges
            of a cell, or the weights of each channel; None makes each parameter one group.
        by_proximal: use proximal steps instead of gradients, so that whole groups become zero.

    Example:
        >>> GroupL1()([torch.tensor([[3.0, 4.0], [0.0, 1.0]])])
        tensor(6.)
    """

    dim: int | None = 0
    by_proximal: bool = False

    def __call__(self, arch: Sequence[Tensor]) -> Tensor:
        """P(α), a tensor of shape ()."""
        return torch.stack([group_norms(alpha, self.dim).sum() for alpha in arch]).sum()

    def proximal(self, arch: Sequence[Tensor], step: float) -> None:
        """Shrink the norm of every group by `step`, in place."""
        with torch.no_grad():
            for alpha in arch:
                alpha.copy_(prox_group_l1(alpha, step, self.dim))


@dataclass(frozen=True)
class ExpectedCost:
    r"""The expected cost of the operations, each weighted by its softmax probability.

    .. math:: P(\alpha) = \sum_e \langle \mathrm{softmax}(\alpha_e), c_e \rangle

    Args:
        costs: c, one tensor per architecture parameter: (E, O), or (O,) if all edges have the same
            costs; parameters, MACs, or measured milliseconds.

    Example:
        >>> ExpectedCost([torch.tensor([1.0, 3.0])])([torch.zeros(2, 2)])
        tensor(4.)

    Source: RARTS thesis, section 3.1.4 (from FasterSeg).
    """

    costs: Sequence[Tensor]

    def __call__(self, arch: Sequence[Tensor]) -> Tensor:
        """P(α), a tensor of shape ()."""
        costs = _matched(self.costs, arch)
        return torch.stack(
            [(alpha.softmax(-1) * cost).sum() for cost, alpha in zip(costs, arch, strict=True)]
        ).sum()


@arguments_checked
def channel_costs(gates: Gates, graph: ChannelGraph, resource: str | LatencyModel) -> list[Tensor]:
    """The cost of one channel of each gated group, or of a gated block, as weights of :class:`L1`.

    That is the saving of the network with one channel less; for a latency, its slope at the current
    shape. A penalty with these weights is in units of the resource: dividing them by their mean
    keeps γ at its usual scale.

    Args:
        gates: the gates of a model; groups that share a gate are counted together.
        graph: the graph that was gated.
        resource: `"params"`, `"macs"`, `"flops"`, `"energy"`, or a latency model from
            `ramify.latency.learn(graph)`, learned before the model is gated: then in milliseconds.

    Returns:
        One tensor per architecture parameter: (W,), or (1,) for a block.

    Raises:
        RamifyError: the resource is unknown, or it is a latency model and there are block gates.

    Example:
        >>> import ramify
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> graph = ramify.trace(net, torch.randn(1, 4))
        >>> channel_costs(ramify.gate(graph), graph, "params")[0][0]
        tensor(7.)

    Source: RARTS thesis, section 3.1.4, for channels instead of operations.
    """
    by_name = saved_by_one(graph, resource)
    for names in gates.groups:
        if names[0] in by_name:
            continue
        if isinstance(resource, LatencyModel):
            raise RamifyError(
                f"a latency model does not predict what a whole block such as '{names[0]}' takes: "
                f"give one of {', '.join(RESOURCES)} as the resource."
            )
        dropped = graph_cost(graph, [Drop(names[0])])
        by_name[names[0]] = graph_cost(graph).of(resource) - dropped.of(resource)
    return [
        torch.full_like(alpha, sum(by_name[name] for name in names), requires_grad=False)
        for names, alpha in zip(gates.groups, gates, strict=True)
    ]


@arguments_checked
def norm_costs(graph: ChannelGraph, resource: str | LatencyModel) -> dict[str, Tensor]:
    r"""The cost of the channels that norm layers scale, as weights of :class:`L1` on the scales.

    .. math:: P(\gamma) = \sum_c s_c \, \frac{1}{n_c} \sum_{l} |\gamma_{lc}|

    with :math:`s_c` the saving of the network with one channel c less, including the inputs of its
    readers, and the mean over the :math:`n_c` scales of the channel (several on a residual stream),
    as :class:`ramify.BNScale` ranks it. This is the regulariser of MorphNet with all channels of
    the current shape alive: prune those whose scale the penalty has reduced to zero, and trace
    again for the weights of the new shape. Dividing the weights by their mean keeps γ at its
    usual scale.

    Args:
        graph: the traced model.
        resource: as for :func:`channel_costs`.

    Returns:
        Name of each scale of a group that can be pruned -> its weights, of the scale's shape, in
        units of the resource.

    Raises:
        RamifyError: the resource is unknown.

    Example:
        >>> import ramify
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        >>> weights = norm_costs(ramify.trace(net, torch.randn(3, 4)), "params")
        >>> weights["1.weight"][:2]  # 4 + 1 of the first layer, 2 of the norm, 2 of the last layer
        tensor([9., 9.])
        >>> L1(list(weights.values()))([net[1].weight]).item()
        72.0

    Source: A. Gordon and others, "MorphNet: Fast & simple resource-constrained structure learning
    of deep networks", 2018.
    """
    tensors, known, saved = (
        tensors_of(graph.model),
        norm_scales(graph),
        saved_by_one(graph, resource),
    )
    found: dict[str, Tensor] = {}
    for group in prunable(graph):
        slots = [slot for slot in group.slots if slot.role == "carrier" and slot.name in known]
        for slot in slots:
            where = torch.from_numpy(graph.positions(group, slot))
            scale = tensors[slot.name].detach()
            weights = found.setdefault(slot.name, torch.zeros_like(scale)).movedim(slot.dim, 0)
            entries = where.shape[1] * scale.numel() // scale.shape[slot.dim]
            weights[where.to(scale.device)] = saved[group.name] / (len(slots) * entries)
    return found


def saved_by_one(graph: ChannelGraph, resource: str | LatencyModel) -> dict[str, float]:
    """The saving of the network with one channel less, for each group.

    Args:
        graph: the traced model.
        resource: as for :func:`channel_costs`.

    Returns:
        Group name -> amount.

    Raises:
        RamifyError: the resource is unknown.
    """
    model = CostModel(graph)
    if isinstance(resource, LatencyModel):
        saved = slopes(resource.on(graph), model.widths).tolist()
    elif resource in RESOURCES:
        now = model.cost().of(resource)
        fewer = [model.widths - step for step in np.eye(len(model.names), dtype=np.int64)]
        saved = [now - model.cost(widths).of(resource) for widths in fewer]
    else:
        raise RamifyError(
            f"there is no resource {resource!r}; give one of {', '.join(RESOURCES)}, or what "
            "ramify.latency.learn returned."
        )
    return dict(zip(model.names, saved, strict=True))


def over_mean(weights: Sequence[Tensor]) -> list[Tensor]:
    """Weights of a penalty divided by the mean of their non-zero entries.

    Args:
        weights: as for :class:`L1`, 0 or more.

    Returns:
        The weights, of the same shapes.

    Raises:
        RamifyError: all weights are 0, as those of a latency that no channel changes.
    """
    every = torch.cat([weight.flatten() for weight in weights])
    if not bool((every > 0).any()):
        raise RamifyError(
            "no channel costs anything, so that a penalty weighted by cost would have no effect: "
            "weigh it by params or macs, or do not weigh it"
        )
    return [weight / every[every > 0].mean() for weight in weights]


def _matched(given: Sequence[Tensor] | None, arch: Sequence[Tensor]) -> list[Tensor]:
    """One tensor per parameter, with its device and type."""
    if given is None:
        return [torch.ones((), device=alpha.device, dtype=alpha.dtype) for alpha in arch]
    if len(given) != len(arch):
        raise RamifyError(
            f"the penalty was given {len(given)} tensors for {len(arch)} architecture parameters; "
            "give one for each, in their order."
        )
    for number, (one, alpha) in enumerate(zip(given, arch, strict=True)):
        if one.ndim > alpha.ndim or any(
            size not in (1, other)
            for size, other in zip(reversed(one.shape), reversed(alpha.shape), strict=False)
        ):
            raise RamifyError(
                f"tensor {number} of the penalty has the shape {tuple(one.shape)}, the "
                f"architecture parameter {tuple(alpha.shape)}; give one that broadcasts to it."
            )
    return [one.to(alpha) for one, alpha in zip(given, arch, strict=True)]
