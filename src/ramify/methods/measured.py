"""Baselines for growth methods that measure the true loss of every split that they try."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ramify.arguments import check_settings
from ramify.cost import CostModel
from ramify.edit import Split
from ramify.errors import RamifyError
from ramify.methods.draws import (
    Kernels,
    Unit,
    check_learnable,
    check_positive,
    check_unit,
    fresh_kernels,
    producer_kernels,
    step_lengths,
    stream,
)
from ramify.methods.proposal import Proposal, best_first
from ramify.methods.trial import Trial, binary_split
from ramify.probe.lanczos import lanczos_extremes
from ramify.probe.loss import Loss
from ramify.probe.splitting_matrix import mean_product, splitting_operators
from ramify.probe.targets import vector_shapes, why_no_target
from ramify.tracing import ChannelGraph, ChannelGroup
from ramify.tracing.recorder import tensors_of


@dataclass(frozen=True)
class LineSearch:
    r"""Steepest descent with line search: along v_min to the largest true decrease of the loss.

    Every channel is actually split into two copies displaced by :math:`\pm t v_{min}`; t is
    searched on a geometric grid, refined around its best point, by the true mean loss over the
    batches.

    Args:
        shortest: the smallest t of the grid.
        longest: the largest t of the grid; the refinement may go beyond both ends.
        points: the number of grid points, at least 2.
        rounds: rounds of refinement; each halves the spacing (in log t) around the best t and
            measures twice.
        surrogate: β of the softplus whose curvature replaces the kinks of piecewise-linear
            activations; None for the true curvature.
        tolerance: Lanczos residual over spectral radius.
        unit: of `shortest` and `longest`, ``absolute`` or ``kernel``, as for
            :class:`SplittingDescent`.
        groups: the groups to search, by any name that `graph[...]` takes; None for all.
        channels: the channels of each group to search; None for all.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best = LineSearch(points=3, rounds=1).propose(graph, loss, [x])[0]
        >>> trial = ramify.Trial(graph, loss, [x])
        >>> abs(trial.decrease([best.edit]) - best.gain) < 1e-6  # it was measured
        True

    Source: the baseline of Gauss-Newton morphisms, section 4.2; v_min is that of S2D.
    """

    shortest: float = 1e-3
    longest: float = 10.0
    points: int = 9
    rounds: int = 3
    surrogate: float | None = 3.0
    tolerance: float = 1e-3
    groups: tuple[str, ...] | None = None
    channels: tuple[int, ...] | None = None
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        check_settings(self)
        check_unit(self.unit)
        if not 0 < self.shortest < self.longest:
            raise RamifyError(
                "shortest must be positive and below longest, but got "
                f"{self.shortest} and {self.longest}"
            )
        if self.surrogate is not None:
            check_positive("surrogate", self.surrogate)
        if self.points < 2:
            raise RamifyError(
                f"points must be at least 2 (the ends of the grid), but got {self.points}"
            )

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """The best split along v_min of every requested channel, best first.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the sample; it is iterated `points + 2 * rounds` times per channel.

        Returns:
            The proposals; `gain` is the true decrease of the mean loss over the batches,
            `splitting_index` is λ_min.

        Raises:
            RamifyError: a group cannot be probed, the loss is not per sample, or loss or weights
                are not finite.
        """
        found, operators = splitting_operators(graph, loss, batches, self.surrogate)
        if not found:
            return []
        like = next(iter(graph.model.parameters())).detach()
        pairs = lanczos_extremes(
            lambda vectors: mean_product(operators, vectors),
            vector_shapes(found, tensors_of(graph.model)),
            like,
            tolerance=self.tolerance,
        )
        names = [target.group.name for target in found]
        trial, prices, out = Trial(graph, loss, batches), CostModel(graph), []
        for group, channels in requested(graph, self.groups, self.channels, names):
            number = names.index(group.name)
            parts = operators[0].as_kernels(found[number], pairs[number].low_vector)
            # Vectors with the length of t = 1.
            one = step_lengths(1.0, self.unit, producer_kernels(graph, group))
            directions = {
                kernel.name: part * one.to(part).view(-1, *[1] * (part.dim() - 1))
                for kernel, part in zip(found[number].kernels, parts, strict=True)
            }
            for channel in channels:
                split, gain = self._search(trial, group, channel, directions)
                index, cost = float(pairs[number].low[channel]), prices.added([split])
                out.append(Proposal(split, gain, cost, splitting_index=index, graph=graph))
        return best_first(out)

    def _search(
        self, trial: Trial, group: ChannelGroup, channel: int, directions: Kernels
    ) -> tuple[Split, float]:
        def split(t: float) -> Split:
            move = {name: t * vectors[channel] for name, vectors in directions.items()}
            return binary_split(group.name, channel, move)

        t, gain = best_length(
            lambda t: trial.decrease([split(t)]),
            self.shortest,
            self.longest,
            self.points,
            self.rounds,
        )
        return split(t), gain


def best_length(
    decrease: Callable[[float], float], shortest: float, longest: float, points: int, rounds: int
) -> tuple[float, float]:
    """The length with the largest decrease: a geometric grid, refined around its best point.

    Args:
        decrease: the function to maximise.
        shortest: the first length of the grid.
        longest: the last length of the grid.
        points: the number of grid points.
        rounds: rounds of refinement.

    Returns:
        The length and its decrease.

    Example:
        >>> t, _ = best_length(lambda t: t - t * t, 0.01, 10.0, 7, 6)
        >>> round(t, 2)
        0.5
    """
    ratio = (longest / shortest) ** (1 / (points - 1))
    known = {t: decrease(t) for t in (shortest * ratio**k for k in range(points))}
    for _ in range(rounds):
        best, ratio = max(known, key=known.__getitem__), math.sqrt(ratio)
        known.update({t: decrease(t) for t in (best / ratio, best * ratio)})
    best = max(known, key=known.__getitem__)
    return best, known[best]


@dataclass(frozen=True)
class Expansion:
    """The expansion oracle: every channel is split, optimised and measured on the true loss.

    One channel at a time is split into two copies displaced by ±θ, with all other weights fixed. θ
    starts from small noise and is optimised by Adam on the true mean loss over all batches; the
    best θ found is proposed. This takes `steps` forward and backward passes over the batches per
    channel.

    Args:
        steps: the number of Adam steps.
        lr: the learning rate of Adam.
        start: standard deviation of the initial θ, relative to the root mean square of each
            producer's weights; θ = 0 is a saddle point with zero gradient.
        seed: the seed of the initial θ.
        groups: the groups to expand, by any name that `graph[...]` takes; None for all.
        channels: the channels of each group to expand; None for all.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best = Expansion(steps=3, channels=(0, 1)).propose(graph, loss, [x])[0]
        >>> trial = ramify.Trial(graph, loss, [x])
        >>> abs(trial.decrease([best.edit]) - best.gain) < 1e-6  # it was measured
        True

    Source: the "network expansion" baseline of Gauss-Newton morphisms, section 4.2.
    """

    steps: int = 100
    lr: float = 1e-2
    start: float = 0.01
    seed: int = 0
    groups: tuple[str, ...] | None = None
    channels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        check_positive("steps", self.steps)
        check_positive("lr", self.lr)
        check_positive("start", self.start)

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """The optimised split of every requested channel, best first.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the sample; it is iterated `steps + 1` times per channel.

        Returns:
            The proposals; `gain` is the true decrease of the mean loss over the batches.

        Raises:
            RamifyError: a group cannot be split, the loss is not per sample, loss or weights are
                not finite, or weights are of float16.
        """
        trial, prices, out = Trial(graph, loss, batches), CostModel(graph), []
        generator, names = stream(self.seed, graph), [g.name for g in graph.groups if g.can_split]
        for group, channels in requested(graph, self.groups, self.channels, names):
            held = producer_kernels(graph, group)
            check_learnable(held)
            first = fresh_kernels(held, self.start, generator)
            for channel in channels:
                move = {name: part[channel].clone() for name, part in first.items()}
                split, gain = self._optimise(trial, group, channel, move)
                out.append(Proposal(split, gain, prices.added([split]), graph=graph))
        return best_first(out)

    def _optimise(
        self, trial: Trial, group: ChannelGroup, channel: int, move: Kernels
    ) -> tuple[Split, float]:
        adam = torch.optim.Adam(move.values(), lr=self.lr)
        split = binary_split(group.name, channel, move)
        best, gain = split, -math.inf
        for _ in range(self.steps):
            decrease, slopes = trial.slopes(split)
            if decrease == -math.inf:  # not finite: no gradient leads back
                return best, gain
            if decrease > gain:
                best, gain = split, decrease
            for name, theta in move.items():
                theta.grad = slopes[name][0] - slopes[name][1]
            adam.step()
            split = binary_split(group.name, channel, move)
        last = trial.decrease([split])
        return (split, last) if last > gain else (best, gain)


def requested(
    graph: ChannelGraph,
    groups: Sequence[str] | None,
    channels: Sequence[int] | None,
    able: Sequence[str],
) -> list[tuple[ChannelGroup, Sequence[int]]]:
    """The groups and channels that a method should search.

    Args:
        graph: the traced model.
        groups: any names that `graph[...]` takes; None for all possible groups.
        channels: the channels of each group; None for all.
        able: the names of the groups that the method can search.

    Returns:
        Each group with its channels.

    Raises:
        RamifyError: a group that cannot be searched, or a channel that does not exist.
    """
    found = [graph[name] for name in (able if groups is None else groups)]
    for group in found:
        if group.name not in able:
            raise RamifyError(
                f"'{group.name}' cannot be split by this method: {why_no_target(group)}"
            )
        for channel in channels or ():
            if not 0 <= channel < group.width:
                raise RamifyError(
                    f"'{group.name}' has channels 0 to {group.width - 1}, but channel {channel} "
                    "was requested: name the groups that have it with `groups`"
                )
    return [(group, range(group.width) if channels is None else channels) for group in found]
