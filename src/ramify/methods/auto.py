"""Splits and new neurons side by side, at one price."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ramify.arguments import check_settings
from ramify.methods.gradmax import GradMax
from ramify.methods.proposal import Proposal, best_first
from ramify.methods.splitting import SplittingDescent
from ramify.probe.loss import Loss
from ramify.tracing import ChannelGraph


@dataclass(frozen=True)
class Auto:
    """The splits of :class:`ramify.SplittingDescent` and the neurons of :class:`ramify.GradMax`.

    Both gains are decreases of the mean loss, that of a split at once, by its second order, and
    that of a new neuron by one gradient step at the rate of training, by its first. Away from a
    local minimum the first order is the larger, and new neurons are proposed first; where the
    gradient to them vanishes, splitting a channel is what still lowers the loss. A rule takes one
    change of a channel, whichever gains more, for a parameter where it ranks by cost.

    Args:
        step: how far the copies of a split start from it, in lengths of the channel's own kernels.
        lr: the rate that the network is trained with.
        surrogate: β of the softplus that stands in at the kinks of piecewise-linear activations;
            None for the derivatives as they are.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> proposals = Auto().propose(graph, loss, [x])
        >>> sorted({len(p.edit.weights) for p in proposals}), len(proposals) > 3
        ([2], True)
        >>> {p.edit.weights for p in proposals} == {(0.5, 0.5), (1.0, 0.0)}
        True

    Source: S2D (Liu et al., 2019), Theorem 2.3; GradMax (Evci et al., 2022), equations (8) to (11).
    """

    step: float = 0.1
    lr: float = 0.1
    surrogate: float | None = 3.0

    def __post_init__(self) -> None:
        check_settings(self)
        self._methods()

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """The best split of every channel, and the new neurons of every group, best first.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number a sample.
            batches: the sample, which is gone through several times.

        Returns:
            The proposals.

        Raises:
            RamifyError: no batch, the loss is not per sample, or loss or weights are not finite.
        """
        held = list(batches)
        found = [one for method in self._methods() for one in method.propose(graph, loss, held)]
        return best_first(found)

    def _methods(self) -> tuple[SplittingDescent, GradMax]:
        splits = SplittingDescent(step=self.step, unit="kernel", surrogate=self.surrogate)
        return splits, GradMax(lr=self.lr, surrogate=self.surrogate)
