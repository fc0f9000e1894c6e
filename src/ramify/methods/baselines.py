"""Baselines for growth methods: splits and new neurons, drawn and ranked at random.

Shape letters: `W` channels of a group, `M` copies of a split.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator

from ramify.arguments import check_settings
from ramify.cost import CostModel
from ramify.edit import Split
from ramify.edit.plan import check_editable
from ramify.errors import RamifyError
from ramify.methods.draws import (
    Kernels,
    Unit,
    check_positive,
    check_unit,
    fresh_kernels,
    normal,
    producer_kernels,
    root_mean_square,
    second_copy,
    step_lengths,
    stream,
)
from ramify.methods.proposal import Proposal, best_first
from ramify.probe.loss import Loss
from ramify.tracing import ChannelGraph


class _Drawn(abc.ABC):
    """A split of every channel, drawn and ranked at random."""

    seed: int

    def propose(
        self, graph: ChannelGraph, loss: Loss | None = None, batches: Iterable[Any] = ()
    ) -> list[Proposal]:
        """A split of every channel in random order; loss and batches are not used.

        Args:
            graph: the traced model.
            loss: as for other methods; not used.
            batches: as for other methods; not used.

        Returns:
            The proposals; `score` is a random number, `gain` is 0.
        """
        check_editable(graph)
        generator, prices, out = stream(self.seed, graph), CostModel(graph), []
        for group in graph.groups:
            if not group.can_split:
                continue
            offsets = self._displace(producer_kernels(graph, group), generator)
            scores = torch.rand(group.width, generator=generator, dtype=torch.float64).tolist()
            cost = prices.added([Split(group.name, 0, self._weights)])
            for channel, score in enumerate(scores):
                own = {name: offset[channel] for name, offset in offsets.items()}
                edit = Split(group.name, channel, self._weights, own)
                out.append(Proposal(edit, 0.0, cost, score=score, graph=graph))
        return best_first(out)

    @property
    @abc.abstractmethod
    def _weights(self) -> tuple[float, ...]:
        """The outgoing weights of the copies."""

    @abc.abstractmethod
    def _displace(self, held: Kernels, generator: Generator) -> Kernels:
        """The offsets (W, M, *kernel) for each producer."""


@dataclass(frozen=True)
class RandomSplit(_Drawn):
    """Every channel split along a random direction, in random order.

    The copies share the outgoing weight evenly. Their displacements are drawn over all producers
    together and sum to zero, so that the first-order change vanishes, as for S2D; the longest has
    norm `step`. Two copies give the binary split of S2D along a random unit direction.

    Args:
        step: ε, how far copies move.
        copies: the number of copies of each channel, at least 2.
        unit: of the step, ``absolute`` or ``kernel``, as for :class:`SplittingDescent`.
        seed: the random seed; draws also differ from one shape of the network to the next.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best = RandomSplit(step=0.1).propose(graph, loss, [])[0]
        >>> moved = torch.cat([part[0].flatten() for part in best.edit.offsets.values()])
        >>> round(float(moved.norm()), 6)
        0.1

    Source: the baseline "Random Split" of S2D, Figure 1 (d).
    """

    step: float = 0.01
    copies: int = 2
    seed: int = 0
    unit: Unit = "absolute"

    def __post_init__(self) -> None:
        check_settings(self)
        check_positive("step", self.step)
        check_unit(self.unit)
        if self.copies < 2:
            raise RamifyError(f"copies must be at least 2, but got {self.copies}")

    @property
    def _weights(self) -> tuple[float, ...]:
        return (1 / self.copies,) * self.copies

    def _displace(self, held: Kernels, generator: Generator) -> Kernels:
        drawn = {}
        for name, kernel in held.items():
            each = normal(kernel, self.copies, generator)
            drawn[name] = each - each.mean(1, keepdim=True)
        flat = torch.cat([p.double().reshape(*p.shape[:2], -1) for p in drawn.values()], dim=2)
        longest = flat.norm(dim=2).max(1).values  # (W,)
        scale = step_lengths(self.step, self.unit, held).to(longest) / longest
        return {
            name: part * scale.to(part).view(-1, *[1] * (part.dim() - 1))
            for name, part in drawn.items()
        }


@dataclass(frozen=True)
class Net2Net(_Drawn):
    """Net2WiderNet: each channel, in random order, is copied and its outgoing weights are halved.

    The copy's incoming weights get a little noise, so that training can separate the two.

    Args:
        noise: standard deviation, relative to the root mean square of each producer's weights.
        seed: the random seed; draws also differ from one shape of the network to the next.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best = Net2Net().propose(graph, loss, [])[0]
        >>> best.edit.weights, bool(best.edit.offsets["0.weight"][0].any())  # the first copy stays
        ((0.5, 0.5), False)

    Source: Chen, Goodfellow and Shlens, "Net2Net: accelerating learning via knowledge transfer",
    2016, section 2.2. The paper may draw a channel more than once in a step; here each is copied at
    most once.
    """

    noise: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.noise < 0:
            raise RamifyError(f"noise must be 0 or more, but got {self.noise}")

    @property
    def _weights(self) -> tuple[float, ...]:
        return (0.5, 0.5)

    def _displace(self, held: Kernels, generator: Generator) -> Kernels:
        return {
            name: second_copy(self.noise * root_mean_square(kernel) * normal(kernel, 1, generator))
            for name, kernel in held.items()
        }


@dataclass(frozen=True)
class NewNeuron(_Drawn):
    """A new neuron: random incoming weights and zero outgoing weights, so the output is unchanged.

    The edit is a split of weights (1, 0) whose second copy is moved to the random weights. The
    other per-channel values on the path (norm weights, running statistics, depthwise kernels) are
    copied from the channel that is split. Running statistics therefore do not fit the new neuron at
    first; but nothing reads it yet, and training forwards replace them within a few dozen steps,
    before its outgoing weights have grown far from zero.

    Args:
        scale: standard deviation of the incoming weights, relative to the root mean square of each
            producer's current weights (a layer that is all zeros gives neurons of zeros).
        seed: the random seed; draws also differ from one shape of the network to the next.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> best = NewNeuron().propose(graph, loss, [])[0]
        >>> best.edit.weights
        (1.0, 0.0)

    Source: the baseline "New Initialization" of S2D, Figure 1 (d).
    """

    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        check_positive("scale", self.scale)

    @property
    def _weights(self) -> tuple[float, ...]:
        return (1.0, 0.0)

    def _displace(self, held: Kernels, generator: Generator) -> Kernels:
        fresh = fresh_kernels(held, self.scale, generator)
        return {name: second_copy((fresh[name] - kernel)[:, None]) for name, kernel in held.items()}
