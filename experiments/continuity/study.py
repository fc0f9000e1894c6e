"""One network with one seed: trained, edited in several ways, and trained on after each edit."""

from __future__ import annotations

import copy
import multiprocessing
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.optim import Optimizer

import ramify
from experiments.continuity.networks import NETWORKS, Network, make_optimizer
from ramify.data import Dataset, batches, load
from ramify.edit import plan_edits
from ramify.probe.loss import mean_loss
from ramify.tracing.indexing import Scaling, reindex
from ramify.train.epoch import cross_entropy

Batch = tuple[Tensor, Tensor]
Curve = list[tuple[int, float, float]]  # step; loss in evaluation mode, and by batch statistics

ARMS = {
    "carried": "carried by ramify.apply",
    "statistics": "moments of copies that had always been there",
    "fresh": "fresh optimizer",
    "zeroed": "moments of edited tensors zeroed",
}
EDITS = ("split", "prune")


@dataclass(frozen=True)
class Settings:
    """The settings of the command.

    Attributes:
        before: steps before the edit.
        after: steps after it.
        dense: steps after the edit at which the loss is measured every time; then every fifth up
            to `window`, and every 25th from there on.
        window: steps after the edit that are searched for a jump.
        batch: images per step.
        probe: training images that evaluate edits, and on which the loss is measured.
        split: share of all channels to split.
        prune: share of all channels to prune.
        step: ε, the displacement of the copies.
    """

    before: int = 200
    after: int = 200
    dense: int = 10
    window: int = 50
    batch: int = 64
    probe: int = 256
    split: float = 0.3
    prune: float = 0.1
    step: float = 0.02


def arms(optimizer: str, kind: str) -> list[str]:
    """The arms of an edit; carried moments and true moments differ only for splits under Adam."""
    both = optimizer == "adamw" and kind == "split"
    return [arm for arm in ARMS if arm != "statistics" or both]


def total_steps(optimizer: str, settings: Settings) -> int:
    """Training steps of one seed."""
    count = sum(len(arms(optimizer, kind)) for kind in EDITS)
    return settings.before + settings.after * (1 + count)


class Run:
    """A network in training, and the images on which its loss is measured.

    Args:
        network: one of `NETWORKS`.
        optimizer: `adamw` or `sgd`.
        seed: of the weights and the order of the images.
        settings: what to do.
        tick: called at every training step.
    """

    def __init__(
        self, network: str, optimizer: str, seed: int, settings: Settings, tick: Callable[[], None]
    ) -> None:
        chosen = NETWORKS[network]
        torch.manual_seed(seed)
        self.settings, self.seed, self.kind, self.tick = settings, seed, optimizer, tick
        self.rate = chosen.rates[optimizer]
        self.dataset, self.model = _images(chosen), chosen.build()
        self.optimizer = make_optimizer(optimizer, self.model, self.rate)
        x, y = (t[: settings.probe] for t in (self.dataset.x_train, self.dataset.y_train))
        self.probe = list(zip(x.split(settings.batch), y.split(settings.batch), strict=True))

    def train(self, start: int, steps: int, watched: Iterable[int]) -> Curve:
        """Continue training from step `start` to `steps`; losses before each watched step."""
        return self._train(self.model, self.optimizer, start, steps, set(watched))

    def edited(self, arm: str, edits: Sequence[ramify.Split | ramify.Prune]) -> tuple[Curve, int]:
        """Continue training from an edited copy; the loss curve and the parameter count."""
        model, optimizer = copy.deepcopy((self.model, self.optimizer))
        if edits:
            before = self.trace(model)
            ever = _as_ever(before, edits, optimizer) if arm == "statistics" else {}
            graph = ramify.apply(before, edits, optimizer=optimizer)
            for parameter, moments in ever.items():
                optimizer.state[parameter]["exp_avg_sq"] = moments
            if arm == "fresh":
                optimizer = make_optimizer(self.kind, model, self.rate)
            elif arm == "zeroed":
                _zero(graph, optimizer, edits)
        held = self.settings
        near = {*range(held.dense), *range(held.dense, held.window, 5)}
        watched = near | {*range(held.window, held.after, 25), held.after}
        curve = self._train(model, optimizer, held.before, held.after, watched)
        return curve, sum(p.numel() for p in model.parameters())

    def trace(self, model: nn.Module) -> ramify.ChannelGraph:
        """The channel groups of the network or of a copy."""
        return ramify.trace(model, self.probe[0][0][:1])

    def choose(self, kind: str) -> list[ramify.Proposal]:
        """The splits with the largest gain, or the prunes of the least important channels."""
        method: ramify.SplittingDescent | ramify.Taylor
        if kind == "split":
            method, share = ramify.SplittingDescent(step=self.settings.step), self.settings.split
        else:
            method, share = ramify.Taylor(), self.settings.prune
        proposals = method.propose(self.trace(self.model), cross_entropy, self.probe)
        return ramify.TopFraction(share).select(proposals)

    def _train(
        self, model: nn.Module, optimizer: Optimizer, start: int, steps: int, watched: set[int]
    ) -> Curve:
        curve: Curve = []
        data = islice(_stream(self.dataset, self.settings.batch, self.seed), start, None)
        for step in range(steps + 1):
            if step in watched:
                held = mean_loss(model, cross_entropy, self.probe)
                batch = _batch_loss(model, self.probe) if _has_batch_norm(model) else held
                curve.append((step, held, batch))
            if step < steps:
                model.train()
                optimizer.zero_grad()
                cross_entropy(model, next(data)).mean().backward()
                optimizer.step()
                self.tick()
        return curve


def run(
    network: str, optimizer: str, seed: int, settings: Settings, tick: Callable[[], None]
) -> dict[str, Any]:
    """Train, edit and continue training: once for each edit and arm, and once without an edit.

    Args:
        network: one of `NETWORKS`.
        optimizer: `adamw` or `sgd`.
        seed: of the weights and the order of the images.
        settings: what to do.
        tick: called at every training step.

    Returns:
        Curves of the loss on the probe images, step 0 being right after the edit, and of each edit
        its size and the change of that loss predicted by its gains.
    """
    study = Run(network, optimizer, seed, settings, tick)
    study.train(0, settings.before, ())
    none, params = study.edited("none", [])
    found: dict[str, Any] = {}
    for kind in EDITS:
        proposals = study.choose(kind)
        edits = [proposal.edit for proposal in proposals]
        curves = {arm: study.edited(arm, edits) for arm in arms(optimizer, kind)}
        found[kind] = {
            "channels": len(edits),
            "predicted": -sum(proposal.gain for proposal in proposals),
            "params": curves["carried"][1],
            "arms": {arm: curve for arm, (curve, _) in curves.items()},
        }
    return {
        "network": network,
        "optimizer": optimizer,
        "seed": seed,
        "settings": asdict(settings),
        "params": params,
        "none": none,
        "edits": found,
    }


def work(key: tuple[str, str, int], settings: Settings, ticks: queue.Queue[int]) -> dict[str, Any]:
    """Call :func:`run` in a worker process with one thread.

    Args:
        key: optimizer, network and seed.
        settings: what to do.
        ticks: gets a 1 at every training step.

    Returns:
        As :func:`run`.

    Raises:
        SystemExit: if the parent command has ended.
    """
    torch.set_num_threads(1)
    command = multiprocessing.parent_process()

    def tick() -> None:
        if command is not None and not command.is_alive():
            raise SystemExit("the command has ended")  # or a killed command leaves busy workers
        ticks.put(1)

    optimizer, network, seed = key
    return run(network, optimizer, seed, settings, tick)


def _images(network: Network) -> Dataset:
    """The data, images averaged over squares of `pool` pixels."""
    dataset = load(network.data)
    if network.pool == 1:
        return dataset
    x_train, x_test = (avg_pool2d(x, network.pool) for x in (dataset.x_train, dataset.x_test))
    return replace(dataset, x_train=x_train, x_test=x_test, augment=False)


def _stream(dataset: Dataset, size: int, seed: int) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from batches(dataset, size, seed, epoch)
        epoch += 1


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def _batch_loss(model: nn.Module, probe: Sequence[Batch]) -> float:
    """The loss as in training, with norms using batch statistics; no state is changed."""
    held = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    losses = [cross_entropy(model, batch) for batch in probe]
    for name, buffer in model.named_buffers():
        buffer.copy_(held[name])
    return float(torch.cat(losses).mean())


def _zero(
    graph: ramify.ChannelGraph,
    optimizer: Optimizer,
    edits: Sequence[ramify.Split | ramify.Prune],
) -> None:
    """Set the moments of every tensor of the edited groups to zero; Adam's `step` stays."""
    tensors = dict(graph.model.named_parameters())
    groups = [graph[name] for name in {edit.group for edit in edits}]
    names = {n for g in groups for n in (*g.producers, *g.carriers, *g.consumers)}
    for name in names & tensors.keys():
        for value in optimizer.state[tensors[name]].values():
            if isinstance(value, Tensor) and value.dim():
                value.zero_()


def _as_ever(
    graph: ramify.ChannelGraph,
    edits: Sequence[ramify.Split | ramify.Prune],
    optimizer: Optimizer,
) -> dict[Tensor, Tensor]:
    """The second moments of each parameter after the edits as if the copies had always existed.

    They depend only on gradients, so the step size does not reflect that weights became smaller.

    Args:
        graph: before the edits.
        edits: the edits to apply.
        optimizer: before the edits.

    Returns:
        Parameter -> second moments.
    """
    changes, tensors = plan_edits(graph, edits).changes, dict(graph.model.named_parameters())
    found: dict[Tensor, Tensor] = {}
    for name in tensors.keys() & set(graph.indexing.touched(changes)):
        squares = optimizer.state[tensors[name]]["exp_avg_sq"]
        factors = [_squared(rule) for rule in graph.indexing.gradient_scales(name)]
        found[tensors[name]] = reindex(squares, graph.dims[name], changes, factors)
    return found


def _squared(rule: Scaling) -> Scaling:
    return lambda term, changes: rule(term, changes) ** 2
