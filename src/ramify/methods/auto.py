"""Splits and new neurons proposed together, with comparable gains."""

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

    Both gains are decreases of the mean loss: a split's gain is immediate and second-order, a new
    neuron's is the first-order gain of one gradient step at the training learning rate. Away from a
    local minimum the first-order gain is larger, and new neurons rank first; where their gradient
    vanishes, splitting still lowers the loss. A rule takes one edit per channel, the one with the
    larger gain, or the larger gain per parameter where it ranks by cost.

    Args:
        step: how far the copies of a split start from it, relative to the norm of the channel's own
            kernels.
        lr: the learning rate that the network is trained with.
        surrogate: β of the softplus that replaces the kinks of piecewise-linear activations; None
            for the true derivatives.

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
        """The best split of every channel and the new neurons of every group, best first.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the sample; it is iterated several times.

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
