"""Gauss-Newton morphisms: splits and prunes learned together on frozen weights (Lawton et al.).

Shape letters: `S` samples, `W` channels of a group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ramify import distributed
from ramify.arguments import check_settings
from ramify.cost import CostModel
from ramify.edit import Edit, Prune
from ramify.edit.plan import check_editable
from ramify.errors import RamifyError
from ramify.methods.draws import check_learnable, check_positive, layer_count
from ramify.methods.proposal import Proposal, best_first
from ramify.methods.trial import binary_split
from ramify.probe.allocator import FreedMemoryKept
from ramify.probe.displaced.read_changes import ReadChanges
from ramify.probe.loss import (
    Loss,
    check_finite,
    check_real,
    check_weights,
    each_batch,
    number_of_batches,
    shaped_loss,
)
from ramify.probe.targets import Target, targets
from ramify.tracing import ChannelGraph
from ramify.tracing.indexing import kernels
from ramify.tracing.recorder import tensors_of

ATTENTION_RADIUS = 0.3
"""Relative to the radius of other groups: before a softmax, estimates hold at shorter lengths."""
MORPHISMS = ("split", "prune")
CURVATURES = ("gauss-newton", "fisher")
HORIZON = 0.1
"""The share of a phase that the running mean covers: 2 of the paper's 20 epochs."""


@dataclass(frozen=True)
class GaussNewton:
    r"""Gauss-Newton morphisms: learn the effect on the loss of splitting or pruning each channel.

    A split turns channel θ into θ + v and θ − v, each read with half the weight; v is learned for
    all channels at once, with the network's weights frozen, by Adam on

    .. math:: \Delta L(v) = \frac1S \sum_s p_s(v) + \frac{p_s(v)^2}{4 \hat L}, \qquad
              p_s(v) = \sum_k \langle \Delta a_k(v), g_k \rangle,

    where k runs over the consumers of the channel, :math:`g_k` is the gradient of one sample's loss
    at k's own read, and :math:`\hat L` is the mean loss of the batch. A prune is
    :math:`\Delta a_k = -a_k`, which is what :class:`ramify.Prune` does, and has nothing to learn.
    Both are proposed for groups that can be split; other groups are read without a weight
    somewhere. Where several layers produce one channel (a residual stream) or a depthwise
    convolution is on the path, the split moves all producers of the channel together and is
    followed to every consumer. Norms use their running statistics. Any activation is evaluated
    exactly, since v is finite.

    The curvature in the formula only sees the direction of each sample's gradient, and v learns to
    move where it sees none: far from θ even the sign of the estimate is wrong. So v stays within
    `radius` of the channel, relative to the norm of its own kernels
    (experiments/gauss_newton/accuracy).

    Where the loss is a negative log likelihood, as cross-entropy is, ``curvature="fisher"`` puts
    :math:`p_s^2/2` in place of :math:`p_s^2/(4 \hat L)`: the mean of :math:`g g^\top` over labels
    drawn from the model's predictions is the exact Gauss-Newton matrix, and the data's own labels
    are such draws as far as the model is calibrated. This costs nothing more, and estimates of
    splits hold much further from θ, above all in residual streams. Once :math:`\hat L < 1/2` the
    gradients of fitted samples vanish, and the larger factor of the paper is used.

    Args:
        morphisms: ``split``, ``prune`` or both.
        lr: learning rate of Adam for v.
        epochs: n_phase, the number of passes over the batches that v is learned in.
        momentum: weight of the newest batch in the running mean of ΔL; None for a mean over the
            last tenth of the phase, like the paper's two epochs of twenty.
        radius: the largest norm of v, relative to the norm of the channel's own kernels, and 0.3 of
            that for heads and for channels inside a head, which are followed by a softmax; where
            several layers produce the channel, relative to the root mean square of their norms,
            since their effects add up. None for no bound, as in the paper.
        start: standard deviation of the initial v, relative to that of the channels' kernels.
        seed: the seed of the initial v.
        curvature: ``gauss-newton``, the paper's, for losses of any unit, or ``fisher``, for a
            negative log likelihood in nats; the latter is not in the paper.

    Example:
        >>> import ramify, torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> x = torch.randn(16, 4)
        >>> loss = lambda model, x: model(x).square().squeeze(1)  # one number a sample
        >>> graph = ramify.trace(net, x)
        >>> proposals = GaussNewton(epochs=2).propose(graph, loss, [x])
        >>> len(proposals)  # a split and a prune of each of three channels
        6

    Source: N. Lawton, A. Galstyan, G. Ver Steeg, "Learning morphisms with Gauss-Newton
    approximation for growing networks", equation (1) and Algorithm 1.
    """

    morphisms: tuple[str, ...] = MORPHISMS
    lr: float = 1e-2
    epochs: int = 1
    momentum: float | None = None
    radius: float | None = 1.0
    start: float = 0.1
    seed: int = 0
    curvature: str = "gauss-newton"

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.morphisms or not set(self.morphisms) <= set(MORPHISMS):
            raise RamifyError(f"morphisms must be some of {MORPHISMS}, but got {self.morphisms}")
        if self.curvature not in CURVATURES:
            raise RamifyError(f"curvature must be one of {CURVATURES}, but got {self.curvature!r}")
        for name in ("epochs", "lr", "start"):
            check_positive(name, getattr(self, name))
        if self.radius is not None and not self.radius > 0:
            raise RamifyError(f"radius must be above 0, or None, but got {self.radius}")
        if self.momentum is not None and not 0 < self.momentum <= 1:
            raise RamifyError(f"momentum must be above 0 and at most 1, but got {self.momentum}")

    def propose(self, graph: ChannelGraph, loss: Loss, batches: Iterable[Any]) -> list[Proposal]:
        """Learn the morphisms of every channel; largest gain first.

        Args:
            graph: the traced model.
            loss: `loss(model, batch)` -> (S,), one number per sample.
            batches: the batches to learn on, iterated `epochs` times.

        Returns:
            One proposal for each channel and kind; `gain` is the running mean of −ΔL, below 0
            where the morphism would raise the loss.

        Raises:
            RamifyError: the loss is not per sample, loss or weights are not finite, the mean loss
                is below 0, or there is no batch.
        """
        check_editable(graph)
        check_weights(graph.model)
        check_real(graph.model)
        if not targets(graph):
            return []
        learner = Morphisms(graph, self)
        known = number_of_batches(batches)
        distributed.check_same(
            "batches of a pass", known, "give every rank the same number of batches."
        )
        total = None if known is None else self.epochs * known
        for _ in range(self.epochs):
            before = learner.steps
            for batch in each_batch(batches):
                learner.step(loss, batch, self._weight(learner.steps, total))
            total = total or self.epochs * learner.steps
            if learner.steps == before:
                raise RamifyError(
                    "there is no batch to learn morphisms on: give a list, a DataLoader or "
                    "another iterable that can be walked through several times"
                )
        return learner.proposals()

    def _weight(self, step: int, total: int | None) -> float:
        """The weight of a batch in the running mean: the first batches all have equal weight."""
        horizon = 1 / self.momentum if self.momentum else HORIZON * (total or math.inf)
        return 1 / max(1.0, min(step + 1, horizon))


class Morphisms:
    """The morphisms of every channel while they are learned; each step uses one batch.

    Groups that share rows of a parameter, as heads and the channels inside a head do, are followed
    one after the other, each with its own displacements.
    """

    def __init__(self, graph: ChannelGraph, settings: GaussNewton) -> None:
        self._memory = FreedMemoryKept()
        self._graph = graph
        self._targets = targets(graph)
        self._read_changes = ReadChanges(graph, self._targets)
        self._level = _likelihood_level if settings.curvature == "fisher" else _level
        tensors = tensors_of(graph.model)
        check_learnable({k.name: tensors[k.name] for t in self._targets for k in t.kernels})
        generator = torch.Generator().manual_seed(settings.seed)
        self._moves = [
            _drawn([self._targets[n] for n in numbers], tensors, settings, generator)
            for numbers in self._read_changes.sets
        ]
        # The set of each target, the positions of its channels, and the largest norms of v.
        sets = enumerate(self._read_changes.sets)
        self._set = {n: place for place, numbers in sets for n in numbers}
        self._rows = [_rows(target, tensors) for target in self._targets]
        self._limits = _limits(self._targets, self._rows, tensors, settings)
        self._optimizer = torch.optim.Adam(self._all_moves(), lr=settings.lr)
        kinds = [kind for kind in ("prune", "split") if kind in settings.morphisms]
        self._means: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
        self.steps = 0

    @property
    def moves(self) -> list[dict[str, Tensor]]:
        """The displacements of each set of targets: producer parameter -> v, of its shape."""
        return [{name: move.detach() for name, move in moves.items()} for moves in self._moves]

    def _all_moves(self) -> list[Tensor]:
        return [move for moves in self._moves for move in moves.values()]

    def step(self, loss: Loss, batch: Any, weight: float) -> None:
        """Evaluate every morphism on a batch, then update v.

        Args:
            loss: `loss(model, batch)` -> (S,).
            batch: a batch.
            weight: the weight of this batch in the running means of ΔL.
        """
        model = self._graph.model
        run = lambda: shaped_loss(loss, model, batch)  # noqa: E731
        read_changes = self._read_changes
        # One forward and one backward pass to the activations; everything below reads from these.
        recorded = read_changes.record(run, batch)
        check_finite(recorded.losses)
        samples = len(recorded.losses)
        labelled = read_changes.label(recorded.tape, samples)
        recorded.keep(labelled.values)
        gradients = recorded.gradients(labelled.reads, labelled.made)
        level = self._level(recorded.losses)
        # A prune has nothing to learn; a split is evaluated at its displacement, which is then
        # updated.
        if "prune" in self._means:
            removed = read_changes.removed(recorded, labelled, gradients)
            changes = {number: _change(p.detach(), level) for number, p in removed.items()}
            self._mean("prune", changes, weight, samples)
        if "split" in self._means:
            followed = read_changes.split(recorded, labelled, gradients, self._moves)
            self._mean("split", self._descend(followed, level, samples), weight, samples)
        self.steps += 1

    def _descend(
        self, followed: Iterable[Mapping[int, Tensor]], level: float, samples: int
    ) -> dict[int, Tensor]:
        """One update of v; returns the changes of the loss before it, by target."""
        changes: dict[int, Tensor] = {}
        self._optimizer.zero_grad()
        with torch.enable_grad():
            for found in followed:  # each is processed, and its memory freed, before the next
                moving = [p for p in found.values() if p.requires_grad]
                if moving:
                    torch.autograd.backward(moving, [_slope(p.detach(), level) for p in moving])
                changes |= {number: _change(p.detach(), level) for number, p in found.items()}
        distributed.average_gradients(self._all_moves(), samples)
        self._optimizer.step()
        if self._limits:
            self._hold()
        return changes

    @torch.no_grad()
    def _hold(self) -> None:
        """Project displacements that exceed the radius back onto it."""
        for number, (rows, limit) in enumerate(zip(self._rows, self._limits, strict=True)):
            moves = self._moves[self._set[number]]
            shorter = (limit / _lengths(rows, moves)).clamp_max(1)
            for name, dim, where in rows:
                held = moves[name].movedim(dim, 0)
                kept = held[where]
                held[where] = kept * shorter.view(-1, *([1] * (kept.dim() - 1))).to(kept)

    @torch.no_grad()
    def _mean(self, kind: str, changes: Mapping[int, Tensor], weight: float, samples: int) -> None:
        # What no sample of the batch reads, or none of those of this rank, changes nothing there.
        every = [
            changes[number] if number in changes else self._no_change(number)
            for number in range(len(self._targets))
        ]
        new, known = distributed.all_mean(every, samples), self._means[kind]
        both = zip(known, new, strict=True) if known else ()
        self._means[kind] = [old.lerp(found, weight) for old, found in both] or new

    def _no_change(self, number: int) -> Tensor:
        """(W,) zeros for a target."""
        target = self._targets[number]
        move = self._moves[self._set[number]][target.kernels[0].name]
        wide = torch.promote_types(move.dtype, torch.float32)
        return torch.zeros(target.group.width, dtype=wide, device=move.device)

    def proposals(self) -> list[Proposal]:
        """The proposals with their learned gains, largest gain first."""
        out: list[Proposal] = []
        prices = CostModel(self._graph)
        for kind, means in self._means.items():
            for number, (target, mean) in enumerate(zip(self._targets, means, strict=True)):
                if kind == "prune" and not target.group.prune_exact:
                    continue
                edits = self._edits(kind, number)
                cost = prices.added(edits[:1])
                out += [
                    Proposal(edit, -change, cost, graph=self._graph)
                    for edit, change in zip(edits, mean.tolist(), strict=True)
                ]
        return best_first(out)

    def _edits(self, kind: str, number: int) -> Sequence[Edit]:
        target = self._targets[number]
        name, channels = target.group.name, range(target.group.width)
        if kind == "prune":
            return [Prune(name, channel) for channel in channels]
        moves = self.moves[self._set[number]]
        own = {k.name: kernels(moves[k.name], k.dim, k.positions) for k in target.kernels}
        return [binary_split(name, c, {n: move[c] for n, move in own.items()}) for c in channels]


def _change(p: Tensor, level: float) -> Tensor:
    """ΔL of each channel from p_s: shape (W,). Equation (1)."""
    return (p + p.square() / (4 * level)).mean(0)


def _slope(p: Tensor, level: float) -> Tensor:
    """The derivative of each channel's ΔL by p_s: shape (S, W)."""
    return (1 + p / (2 * level)) / len(p)


def _level(losses: Tensor) -> float:
    """The mean loss, which scales the curvature; where it is 0 every gradient is 0 too."""
    [mean] = distributed.all_mean([losses.mean()], len(losses))
    level = float(mean)
    if level < 0:
        raise RamifyError(
            f"the mean loss of a batch is {level:.4g}, and the curvature of Gauss-Newton takes a "
            "loss of at least 0: add a constant to it, or choose another method"
        )
    return max(level, torch.finfo(losses.dtype).tiny)


def _likelihood_level(losses: Tensor) -> float:
    """The mean loss, at most ½, where equation (1) gives the Fisher information's ½ p²."""
    return min(_level(losses), 0.5)


Rows = list[tuple[str, int, Tensor]]
"""For each producer of a target: its name, its channel dimension, and each channel's positions."""


def _rows(target: Target, tensors: Mapping[str, Tensor]) -> Rows:
    device = {kernel.name: tensors[kernel.name].device for kernel in target.kernels}
    return [
        (kernel.name, kernel.dim, torch.from_numpy(kernel.positions).to(device[kernel.name]))
        for kernel in target.kernels
    ]


def _lengths(rows: Rows, tensors: Mapping[str, Tensor]) -> Tensor:
    """The norm of each channel over all producers, (W,), in float32 or wider."""
    parts = []
    for name, dim, where in rows:
        kernel = tensors[name].detach().movedim(dim, 0)[where].flatten(1)
        wide = kernel.to(torch.promote_types(kernel.dtype, torch.float32))
        parts.append(wide.square().sum(1))
    return torch.stack(parts).sum(0).sqrt().clamp_min(torch.finfo(torch.float32).tiny)


def _limits(
    found: Sequence[Target],
    rows: Sequence[Rows],
    tensors: Mapping[str, Tensor],
    settings: GaussNewton,
) -> list[Tensor]:
    """The largest norm of each channel's v, at least one step; an empty list without a bound."""
    if settings.radius is None:
        return []
    steep = {kernel.name for target in found if target.multiplied for kernel in target.kernels}
    limits = []
    for target, own in zip(found, rows, strict=True):
        names = [kernel.name for kernel in target.kernels]
        share = 1.0 if steep.isdisjoint(names) else ATTENTION_RADIUS
        mean = _lengths(own, tensors) / math.sqrt(layer_count(names))
        limits.append(settings.radius * share * mean.clamp_min(settings.lr))
    return limits


def _drawn(
    found: Sequence[Target],
    tensors: dict[str, Tensor],
    settings: GaussNewton,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Small random displacements: at v = 0 every gradient is 0."""
    moves: dict[str, Tensor] = {}
    for target in found:
        for kernel in target.kernels:
            tensor = tensors[kernel.name].detach()
            move = moves.setdefault(kernel.name, torch.zeros_like(tensor))
            rows = move.movedim(kernel.dim, 0)
            where = torch.from_numpy(kernel.positions).to(tensor.device)
            scale = settings.start * max(_spread(tensor), settings.lr)
            noise = torch.randn(rows[where].shape, generator=generator) * scale
            rows[where] = noise.to(rows)
    return {name: move.requires_grad_() for name, move in moves.items()}


def _spread(tensor: Tensor) -> float:
    return float(tensor.float().square().mean().sqrt())
