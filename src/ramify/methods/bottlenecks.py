"""Growth where width is scarce, judged by what the present channels are worth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from ramify.arguments import check_settings
from ramify.cost import CostModel
from ramify.edit import Prune, Split
from ramify.errors import RamifyError
from ramify.methods.draws import check_positive
from ramify.methods.gradmax import GradMax
from ramify.methods.proposal import Method, Proposal
from ramify.methods.scores import prunable
from ramify.methods.trial import Trial
from ramify.probe.loss import Loss, each_batch, first_batches
from ramify.tracing import ChannelGraph
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
        named = self._named(graph)
        groups = {
            graph[one.edit.group].name for one in proposals if isinstance(one.edit, Split)
        } & named
        least = self.share * max((needs[name] for name in groups & needs.keys()), default=0.0)
        scarce = {name for name in groups if needs.get(name, math.inf) >= least}
        return [
            one
            for one in proposals
            if isinstance(one.edit, Prune) or graph[one.edit.group].name in scarce
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
        prices, out = CostModel(graph), dict[str, float]()
        whole = prices.cost()
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

        def quiet(model: nn.Module, batch: Any) -> Tensor:
            with untouched(model):
                return loss(model, batch)

        sample = first_batches(graph.model, quiet, each_batch(batches), self.samples)
        trial, named, out = Trial(graph, loss, sample), self._named(graph), dict[str, float]()
        for group in prunable(graph):
            able = group.can_split and group.width > group.narrowest
            if not able or group.name not in named:
                continue
            count = min(self.channels, group.width)
            picked = np.linspace(0, group.width - 1, count).round().astype(int).tolist()
            rises = [-trial.decrease([Prune(group.name, channel)]) for channel in picked]
            out[group.name] = float(np.mean(rises))
        return out

    def _named(self, graph: ChannelGraph) -> set[str]:
        """The names of the groups to choose among."""
        every = graph.groups if self.groups is None else (graph[name] for name in self.groups)
        return {group.name for group in every}
