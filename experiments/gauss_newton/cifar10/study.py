"""One network with one seed, trained for a fixed number of steps and edited during training."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import ramify
from experiments.gauss_newton.epochs import Epochs, train_on
from ramify.cost import CostModel, graph_cost
from ramify.data import Dataset, load
from ramify.models import build
from ramify.probe.loss import Loss
from ramify.relax import L1, norm_costs
from ramify.relax.penalties import over_mean
from ramify.tracing.recorder import tensors_of
from ramify.train.epoch import Training, cross_entropy, evaluate, make_optimizer
from ramify.train.fresh_networks import wide

ARMS = {
    "gauss-newton": "Gauss-Newton, splits",
    "gauss-newton-both": "Gauss-Newton, splits and prunes",
    "s2d": "S2D",
    "s3d": "S3D, c = 1.3",
    "random": "random splits",
    "wide": "uniformly widened",
    "bn": "BN pruning",
    "l1": "L1 pruning",
    "uniform": "L1 pruning, the same share of every layer",
    "shallow": "L1 pruning, more of shallow layers",
    "deep": "L1 pruning, more of deep layers",
    "morphnet": "MorphNet",
}
TILTS = {"uniform": 0.0, "shallow": -1.0, "deep": 1.0}
PRUNING = ("bn", "l1", *TILTS)
LATER = (*TILTS, "morphnet")  # not part of the tables of this folder
STEPS = 20  # of a bisection


@dataclass(frozen=True)
class Settings:
    """The settings of the command; every arm trains for the same number of steps.

    Attributes:
        model: a built-in network.
        width: channels of each layer of the seed.
        params: the final parameter budget of every arm.
        data: the data set.
        samples: training images.
        tests: test images.
        rounds: number of edits, evenly spaced; training takes place before, between and after them.
        epochs: of training between edits.
        phase: epochs of learning morphisms with Gauss-Newton at each edit.
        tradeoff: λ_p of Gauss-Newton.
        fraction: share of the channels that splitting methods split at an edit.
        probe: training images that evaluate splits.
        batch: images per step.
        lr: initial learning rate; falls to 0 with a cosine schedule.
        gamma: MorphNet's weight of the penalty on the norm scales.
        zero: MorphNet's largest norm scale that is cut.
    """

    model: str = "vgg19"
    width: int = 16
    params: int = 100_000
    data: str = "cifar10"
    samples: int = 8_000
    tests: int = 5_000
    rounds: int = 3
    epochs: int = 4
    phase: int = 1
    tradeoff: float = 1e-7
    fraction: float = 0.25
    probe: int = 512
    batch: int = 64
    lr: float = 0.1
    gamma: float = 0.003
    zero: float = 0.02


def run(arm: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Train one arm.

    Args:
        arm: one of `ARMS`.
        seed: of the weights, the order of the images and the method.
        settings: what to do.

    Returns:
        Test accuracy, loss and parameters at the end and before each edit, and the seconds spent
        on training and on choosing edits.

    Raises:
        SystemExit: if the parent command has ended.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    dataset = _subset(load(settings.data), settings)
    model = _seed(arm, settings, dataset)
    graph = ramify.trace(model, dataset.x_train[:1])
    total = (settings.rounds + 1) * settings.epochs
    training = Training(epochs=total, lr=settings.lr, nesterov=True, weight_decay=1e-4)
    optimizer = make_optimizer(model, training)
    data = Epochs(dataset, settings.batch, seed)
    seconds = {"training": 0.0, "editing": 0.0}
    points: list[dict[str, Any]] = []
    command = multiprocessing.parent_process()
    for epoch in range(total):
        if command is not None and not command.is_alive():
            raise SystemExit("the command has ended")  # or a killed command leaves busy workers
        started = time.monotonic()
        # MorphNet's final shape trains without the penalty.
        searching = arm == "morphnet" and epoch < total - settings.epochs
        loss = penalised(graph, settings.gamma) if searching else cross_entropy
        train_on(model, data, optimizer, training, epoch, loss)
        seconds["training"] += time.monotonic() - started
        if (epoch + 1) % settings.epochs == 0:
            points.append(_point(model, graph, dataset, settings))
            if epoch + 1 < total and arm != "wide":
                started = time.monotonic()
                last = epoch + 1 + settings.epochs == total
                graph = _edit(arm, seed, graph, optimizer, data, settings, last=last)
                seconds["editing"] += time.monotonic() - started
    held = {"arm": arm, "seed": seed, "settings": asdict(settings)}
    return held | points[-1] | {"path": points, "seconds": seconds}


def _subset(dataset: Dataset, settings: Settings) -> Dataset:
    train, test = slice(settings.samples), slice(settings.tests)
    return replace(
        dataset,
        x_train=dataset.x_train[train],
        y_train=dataset.y_train[train],
        x_test=dataset.x_test[test],
        y_test=dataset.y_test[test],
    )


def _seed(arm: str, settings: Settings, dataset: Dataset) -> nn.Module:
    """The initial network of an arm: the seed network, or a uniformly wider one."""
    inputs, classes = dataset.x_train[:1], len(dataset.classes)

    def make() -> nn.Module:
        shape = tuple(inputs.shape[1:])
        return build(settings.model, dataset_shape=shape, classes=classes, width=settings.width)

    if arm in ("wide", "morphnet"):
        return wide(make, inputs, settings.params)
    return wide(make, inputs, 2 * settings.params) if arm in PRUNING else make()


def _edit(
    arm: str,
    seed: int,
    graph: ramify.ChannelGraph,
    optimizer: Optimizer,
    data: Epochs,
    settings: Settings,
    *,
    last: bool,
) -> ramify.ChannelGraph:
    """Propose, select, stay within the budget, apply."""
    if arm == "morphnet":
        return _morphed(seed * 1000 + len(data.done), graph, optimizer, settings)
    method: ramify.methods.Method
    rule: ramify.select.Rule = ramify.TopFraction(settings.fraction)
    probe: Any = [(data.dataset.x_train[: settings.probe], data.dataset.y_train[: settings.probe])]
    if arm.startswith("gauss-newton"):
        kinds = ("split",) if arm == "gauss-newton" else ("split", "prune")
        method = ramify.GaussNewton(morphisms=kinds, epochs=settings.phase, seed=seed)
        rule, probe = ramify.TradeOff(params=settings.tradeoff, per_group=0.3), data
    elif arm == "random":
        method = ramify.RandomSplit(seed=seed * 1000 + len(data.done))
    elif arm in PRUNING:
        method = ramify.BNScale() if arm == "bn" else ramify.L1()
        # Half the parameters go: each edit takes its share, the last what is still needed.
        share = 0.9 if last else 1 - (0.5**0.5) ** (1 / settings.rounds)
        rule = ramify.TopFraction(share)
        if arm in TILTS:
            rule = within(graph, method.propose(graph, cross_entropy, ()), share, settings, arm)
    else:
        method = ramify.SplittingDescent(signed=1.0 if arm == "s2d" else 1.3)
    proposals = method.propose(graph, cross_entropy, probe)
    chosen = ramify.fit(rule.select(proposals), graph, {"params": settings.params})
    if not chosen:
        return graph
    return ramify.apply(graph, [proposal.edit for proposal in chosen], optimizer=optimizer)


def within(
    graph: ramify.ChannelGraph,
    proposals: Sequence[ramify.Proposal],
    most: float,
    settings: Settings,
    arm: str,
) -> ramify.TopFraction:
    """The rule with the smallest shares, depending only on layer depth, that meets the budget.

    Args:
        graph: of the network.
        proposals: a prune of every channel.
        most: the largest mean share.
        settings: the budget.
        arm: one of `TILTS`.

    Returns:
        The rule.
    """
    prices, rule = CostModel(graph), ramify.TopFraction(most, per_group=True, tilt=TILTS[arm])
    low, high = 0.0, most
    for _ in range(STEPS):
        middle = replace(rule, fraction=(low + high) / 2)
        added = prices.added([p.edit for p in middle.select(proposals)])
        if prices.cost().params + added.params > settings.params:
            low = middle.fraction
        else:
            high, rule = middle.fraction, middle
    return rule


def penalised(graph: ramify.ChannelGraph, gamma: float) -> Loss:
    """The cross-entropy, with MorphNet's penalty on the norm scales by the parameters they cost.

    Args:
        graph: of the current network, whose widths determine the cost of a channel.
        gamma: the weight of the penalty; a channel of mean cost has weight 1.

    Returns:
        The loss, (S,).
    """
    costs, tensors = norm_costs(graph, "params"), tensors_of(graph.model)
    penalty = L1(over_mean(list(costs.values())))
    scales = [tensors[name] for name in costs]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(model, batch) + gamma * penalty(scales)

    return loss


def _morphed(
    seed: int, graph: ramify.ChannelGraph, optimizer: Optimizer, settings: Settings
) -> ramify.ChannelGraph:
    """Cut the channels with a vanished scale, then widen all layers by one factor to the budget."""
    proposals = ramify.BNScale().propose(graph)
    gone = ramify.Threshold(value=-settings.zero).select(proposals)
    graph = ramify.apply(graph, [proposal.edit for proposal in gone], optimizer=optimizer)
    if graph_cost(graph).params > settings.params:  # by a channel: the nearest uniform width
        return graph
    return ramify.widen(graph, {"params": settings.params}, seed=seed, optimizer=optimizer)


def _point(
    model: nn.Module, graph: ramify.ChannelGraph, dataset: Dataset, settings: Settings
) -> dict[str, Any]:
    pairs = zip(dataset.x_test.split(500), dataset.y_test.split(500), strict=True)
    loss, accuracy = evaluate(model, pairs)
    cost = graph_cost(graph)
    widths = [group.width for group in graph.groups if group.can_split]
    return {
        "accuracy": accuracy,
        "loss": loss,
        "params": cost.params,
        "macs": cost.macs,
        "widths": widths,
    }
