"""The settings of a search for widths: how channels are scored while the network trains."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ramify.arguments import check_settings
from ramify.cost import RESOURCES
from ramify.errors import RamifyError
from ramify.imports import object_at
from ramify.methods import L1 as WeightNorm
from ramify.methods import BNScale, Method, Proposal, Taylor
from ramify.methods.registry import as_method
from ramify.methods.scores import prunable, prunes
from ramify.probe.loss import Loss
from ramify.refit import Takeover
from ramify.relax import L1, Searcher
from ramify.relax.penalties import over_mean
from ramify.relax.registry import NAMES, learns_alpha, searcher_named
from ramify.tracing import ChannelGraph
from ramify.train.epoch import Training, optimizer_over

PLAIN = ("takeover", "l1", "taylor", "random")
SEARCHERS = (*NAMES, "bn", *PLAIN)


@dataclass(frozen=True)
class WidthSearch:
    """How channels are scored: the search stage of Algorithm 3.

    ``rarts``, ``darts1``, ``darts2``, ``milenas`` and ``joint`` learn gates on the channels along
    with the weights. ``bn`` learns the scales of the norm layers under an L1 penalty (network
    slimming). ``takeover``, ``l1``, ``taylor`` and ``random`` train plainly for as many steps on as
    many samples, and then score a channel by the rise of the loss after the other channels are
    refitted, by its weights, by a first-order estimate, or at random. A user's own searcher,
    ``package.module:object``, is either a subclass of :class:`ramify.relax.Searcher`, which learns
    gates, or a method (or a function that returns one, called with ``seed=`` if it has that
    argument), whose prunes are ranked after plain training.

    α has the same optimizer and schedule as the weights but no weight decay, since the penalty
    shrinks it; γ = 1e-4 is that of the thesis, as in network slimming. Both losses have equal
    weight (λ = 1). β is small: at a step size of 0.1 it pulls the two copies of the weights
    together within some hundred steps, and in between each can fit its own half of the data. With a
    large β they are one copy, trained on both halves jointly.

    Attributes:
        searcher: One of the names above, or ``package.module:object``.
        epochs: Passes over the pairs of batches.
        lam: λ, for ``rarts`` and ``milenas``.
        beta: β, for ``rarts``.
        gamma: γ, the weight of the L1 penalty on the gates, or on the norm scales.
        arch_lr: Learning rate of the gates; None for that of the weights, as in the thesis.
        penalty_by: ``"params"``, ``"macs"``, ``"flops"`` or ``"energy"``: the penalty of a gate or
            norm scale is weighted by the cost of its channel relative to the mean cost of channels;
            with ``bn`` that is the regulariser of MorphNet. None weights all equally.
        seed: Seed of the scores of ``random``.
        groups: Patterns of group names, such as ``"*.mlp.fc1"``; groups that match one are scored.
            None scores the channels of every group that can be pruned exactly.

    Raises:
        RamifyError: A setting is unknown or out of range.

    Example:
        >>> import torch, ramify
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(),
        ...     nn.Linear(8, 2))
        >>> search = WidthSearch(searcher="rarts", epochs=20, groups=("0",))
        >>> search.chosen(ramify.trace(net, torch.ones(1, 2)))
        ['0']

    Source: RARTS thesis, Algorithm 3 and section 4.2.2; for `penalty_by` with ``bn``, A. Gordon and
    others, "MorphNet", 2018.
    """

    searcher: str = "rarts"
    epochs: int = 10
    lam: float = 1.0
    beta: float = 0.01
    gamma: float = 1e-4
    arch_lr: float | None = None
    seed: int = 0
    groups: tuple[str, ...] | None = None
    penalty_by: str | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        if self.searcher not in SEARCHERS and ":" not in self.searcher:
            raise RamifyError(
                f"there is no searcher {self.searcher!r}; choose one of {', '.join(SEARCHERS)}."
            )
        if self.epochs < 1:
            raise RamifyError(f"the search is given {self.epochs} epochs; it needs at least 1.")
        for name in ("lam", "beta", "gamma"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise RamifyError(f"{name} is {value}; it must not be negative, and be finite.")
        if self.arch_lr is not None and not 0 < self.arch_lr < math.inf:
            raise RamifyError(f"arch_lr is {self.arch_lr}; it must be above 0 and finite.")
        if self.penalty_by not in (None, *RESOURCES):
            raise RamifyError(
                f"penalty_by is {self.penalty_by!r}; give one of {', '.join(RESOURCES)}, or leave "
                "it out."
            )
        if self.penalty_by is not None and (self.plain or not self.gamma):
            raise RamifyError(
                "penalty_by weighs a penalty on gates or norm scales, and there is none: give a "
                "searcher that learns gates, or bn, and a gamma above 0."
            )

    @property
    def gated(self) -> bool:
        """Whether gates on the channels are learned."""
        if self.searcher in SEARCHERS:
            return self.searcher in NAMES
        return learns_alpha(object_at(self.searcher, "searcher"))

    @property
    def plain(self) -> bool:
        """Whether the network trains plainly and is scored afterwards."""
        return not self.gated and self.searcher != "bn"

    def chosen(self, graph: ChannelGraph) -> list[str]:
        """The groups to score, which do not depend on the searcher.

        Args:
            graph: The graph of the network.

        Returns:
            Their names.

        Raises:
            RamifyError: There are none.
        """
        patterns = ("*",) if self.groups is None else self.groups
        meant = {group.name for pattern in patterns for group in graph.matching(pattern)}
        found = [g.name for g in graph.groups if g.prune_exact and g.name in meant]
        if not found:
            raise RamifyError(
                f"no group of this network that can be pruned exactly is called "
                f"{' or '.join(patterns)}: print(graph), or `ramify show`, lists them."
            )
        return found

    def make(
        self,
        model: nn.Module,
        arch: Iterable[Tensor],
        loss: Loss,
        training: Training,
        steps: int,
        costs: Sequence[Tensor] | None = None,
    ) -> Searcher:
        """The searcher over a model's gates, or over its norm scales.

        Args:
            model: The network.
            arch: The gates, or the scales.
            loss: ``loss(model, batch)``.
            training: How the weights train.
            steps: Steps of the whole search, over which the learning rates fall.
            costs: The weight of each gate or scale in the penalty, over the mean; None: all equal.

        Returns:
            The searcher.
        """
        rates = replace(training, lr=self.arch_lr or training.lr, weight_decay=0.0)
        gamma, weights = self.gamma, training
        if self.searcher in ("joint", "bn"):
            weights = _of_a_sum(training)
        if self.searcher == "bn":  # the scales are weights: they decay as well
            gamma, rates = 2 * gamma, weights
        schedule = partial(_scheduled, training=training, steps=steps)
        name = "joint" if self.searcher == "bn" else self.searcher
        return searcher_named(name, self.lam, self.beta)(
            model,
            arch=arch,
            loss=loss,
            weight_optimizer=partial(optimizer_over, training=weights),
            arch_optimizer=partial(optimizer_over, training=rates),
            gamma=gamma,
            penalty=L1(None if costs is None else over_mean(costs)) if gamma else None,
            schedules={"weights": schedule, "arch": schedule},
        )

    def method(self) -> Method | None:
        """The method that scores the channels after the search, unless the gates do."""
        methods: dict[str, Method] = {
            "bn": BNScale(),
            "takeover": Takeover(),
            "l1": WeightNorm(),
            "taylor": Taylor(),
            "random": Chance(self.seed),
        }
        if self.searcher in SEARCHERS:
            return methods.get(self.searcher)
        found = object_at(self.searcher, "searcher")
        return None if self.gated else as_method(found, self.searcher, self.seed)


@dataclass(frozen=True)
class Chance:
    """Prunes in random order, a baseline for any score.

    Example:
        >>> import ramify
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> proposals = Chance(seed=0).propose(ramify.trace(net, torch.ones(1, 2)), None, ())
        >>> [(proposal.edit.group, proposal.edit.channel) for proposal in proposals]
        [('0', 2), ('0', 0), ('0', 1)]
    """

    seed: int

    def propose(
        self, graph: ChannelGraph, loss: Loss | None, batches: Iterable[Any]
    ) -> list[Proposal]:
        """A prune of every channel that can be pruned; loss and batches are ignored."""
        generator = torch.Generator().manual_seed(self.seed)
        return prunes(
            graph, {g.name: torch.rand(g.width, generator=generator) for g in prunable(graph)}
        )


def _of_a_sum(training: Training) -> Training:
    """Settings that take the same steps on the sum of two losses (Joint) as on their mean."""
    # Adam ignores the scale of its gradients, which include the decay; AdamW decays separately.
    rate = 0.5 if training.optimizer == "sgd" else 1.0
    decay = 1.0 if training.optimizer == "adamw" else 2.0
    return replace(training, lr=rate * training.lr, weight_decay=decay * training.weight_decay)


def _scheduled(optimizer: Optimizer, training: Training, steps: int) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: training.factor(min(step, steps), steps))
