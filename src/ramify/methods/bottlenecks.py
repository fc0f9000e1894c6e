"""Growth where width is scarce, judged by what the present channels are worth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ramify.arguments import check_settings
from ramify.cost import CostModel, graph_cost
from ramify.edit import Prune, Split
from ramify.errors import RamifyError
from ramify.methods.draws import check_positive
from ramify.methods.gradmax import GradMax
from ramify.methods.proposal import Method, Proposal
from ramify.methods.scores import prunable
from ramify.methods.trial import Trial
from ramify.probe.loss import Loss, checked_loss, each_batch
from ramify.tracing import ChannelGraph
from ramify.tracing.recorder import evaluating
from ramify.tracing.untouched import untouched


@dataclass(frozen=True)
class Bottlenecks:
    r"""The splits of another method in the groups in which width is scarce.

    The gain of an edit is its effect now, or that of one training step. What a group gains from
    more channels after further training is a different question, and what its present channels are
    worth answers it better: the loss rises most where a channel is removed from a bottleneck. The
    need of a group is that rise by the relative cost of one more channel,

    .. math:: n_g = \max\bigl(0,\; \operatorname{mean}_{c \in g} L_{-c} - L\bigr) \Big/
              \Bigl(\frac{\text{parameters}_g}{\text{parameters}} +
              \frac{\text{MACs}_g}{\text{MACs}}\Bigr),

    where :math:`L_{-c}` is the mean loss without channel c, as :class:`ramify.Trial` measures it,
    and the cost is relative to the whole network. The method's splits in the groups with
    :math:`n_g` of at least `share` times the largest need are returned unchanged, and so are its
    prunes, and its splits in groups whose need is not known because no channel can be removed. Each
    removed channel takes one forward pass of the samples.

    Where this was measured, it found the layer that limits a network, for which S2D and
    Gauss-Newton expect no gain (benchmarks/README.md, "Networks with a bottleneck").

    Args:
        method: proposes the edits; by default new neurons by :class:`ramify.GradMax`.
        share: of the largest need, from 0 (all groups) to 1 (the group with the largest).
        channels: the most channels of each group that are removed, one at a time, spread evenly
            over the group.
        samples: the number of samples on which the loss is measured: the first batches that have
            as many.
        groups: the groups to choose among, by any name that `graph[...]` takes; None for all.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> generator = torch.manual_seed(0)
        >>> narrow = nn.Linear(16, 2)
        >>> net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), narrow, nn.Tanh(), nn.Linear(2, 3))
        >>> x = torch.randn(64, 4)
        >>> loss = lambda model, x: (model(x) - x[:, :3]).square().sum(1)  # one number a sample
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        >>> for _ in range(300):
        ...     optimizer.zero_grad()
        ...     loss(net, x).mean().backward()
        ...     optimizer.step()
        >>> graph = ramify.trace(net, x)
        >>> {proposal.edit.group for proposal in Bottlenecks().propose(graph, loss, [x])}
        {'2'}
    """

    method: Method = field(default_factory=GradMax)
    share: float = 0.25
    channels: int = 8
    samples: int = 1024
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        check_positive("channels", self.channels)
        check_positive("samples", self.samples)
        if not 0 <= self.share <= 1:
            raise RamifyError(f"share must be from 0 to 1, but got {self.share}")

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """The method's proposals for the groups with the largest needs, in the method's order.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the sample; it is iterated as often as the method does, and once for each
                removed channel.

        Returns:
            The proposals.

        Raises:
            RamifyError: no batch, the loss is not per sample, or loss or weights are not finite.
        """
        if iter(each_batch(batches)) is batches:  # it can be gone through only once
            batches = list(batches)
        proposals = self.method.propose(graph, loss, batches)
        needs = self.needs(graph, loss, batches)
        if self.groups is not None:
            named = {graph[name].name for name in self.groups}
            proposals = [
                one for one in proposals if isinstance(one.edit, Prune) or one.edit.group in named
            ]
        split = {one.edit.group for one in proposals if isinstance(one.edit, Split)}
        least = self.share * max((needs[name] for name in split & needs.keys()), default=0.0)
        return [
            one
            for one in proposals
            if isinstance(one.edit, Prune) or needs.get(one.edit.group, math.inf) >= least
        ]

    def needs(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> dict[str, float]:
        """The need for more channels of every group that can both gain and lose channels.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the sample; it is iterated once, and once for each removed channel.

        Returns:
            n by the name of the group.

        Raises:
            RamifyError: no batch, the loss is not per sample, or loss or weights are not finite.
        """
        prices, whole, out = CostModel(graph), graph_cost(graph), dict[str, float]()
        for name, worth in self.worths(graph, loss, batches).items():
            added = prices.added([Split(name, 0)])
            cost = added.params / max(1, whole.params) + added.macs / max(1, whole.macs)
            out[name] = max(0.0, worth) / max(cost, math.ulp(0.0))
        return out

    def worths(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> dict[str, float]:
        """The mean rise of the loss when a channel is removed, for the same groups.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the sample, as for `needs`.

        Returns:
            The rise by the name of the group; infinite where the loss is then not finite.

        Raises:
            RamifyError: as for `needs`.
        """
        named = None if self.groups is None else {graph[name].name for name in self.groups}
        trial, out = Trial(graph, loss, self._sample(graph, loss, batches)), dict[str, float]()
        for group in prunable(graph):
            able = group.can_split and group.width > group.narrowest
            if not able or (named is not None and group.name not in named):
                continue
            count = min(self.channels, group.width)
            picked = np.linspace(0, group.width - 1, count).round().astype(int).tolist()
            rises = [-trial.decrease([Prune(group.name, channel)]) for channel in picked]
            out[group.name] = float(np.mean(rises))
        return out

    def _sample(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Any]:
        """The first batches, until they have enough samples."""
        held, count = [], 0
        for batch in each_batch(batches):
            held.append(batch)
            with untouched(graph.model), evaluating(graph.model):
                count += len(checked_loss(loss, graph.model, batch))
            if count >= self.samples:
                break
        return held
