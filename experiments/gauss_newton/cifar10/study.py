"""One network of one seed, trained for a fixed number of steps and edited on the way."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

import ramify
from experiments.gauss_newton.epochs import Epochs, train_on
from ramify.cost import graph_cost
from ramify.data import Dataset, load
from ramify.models import build
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
}
PRUNING = ("bn", "l1")


@dataclass(frozen=True)
class Settings:
    """What the command decides; every arm trains for the same steps.

    Attributes:
        model: a built-in network.
        width: channels of each layer of the seed.
        params: the budget that every arm ends at.
        data: the data set.
        samples: training images.
        tests: test images.
        rounds: edits, at equal distances; training goes on before, between and after them.
        epochs: of training between edits.
        phase: epochs in which Gauss-Newton learns morphisms, at each edit.
        tradeoff: λ_p of Gauss-Newton.
        fraction: share of the channels that splitting methods split at an edit.
        probe: training images that judge splits.
        batch: images a step.
        lr: learning rate at the start; cosine to 0.
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


def run(arm: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Train one arm.

    Args:
        arm: one of `ARMS`.
        seed: of the weights, the order of the images and the method.
        settings: what to do.

    Returns:
        Test accuracy, loss and parameters at the end and before each edit, and the seconds of
        training and of choosing edits.

    Raises:
        SystemExit: the command that this is a worker of has ended.
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
        train_on(model, data, optimizer, training, epoch)
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
    """The network an arm begins with: the seed, or one made uniformly wider."""
    inputs, classes = dataset.x_train[:1], len(dataset.classes)

    def make() -> nn.Module:
        shape = tuple(inputs.shape[1:])
        return build(settings.model, dataset_shape=shape, classes=classes, width=settings.width)

    if arm == "wide":
        return wide(make, inputs, settings.params)
    return wide(make, inputs, 2 * settings.params) if arm in PRUNING else make()


def _edit(
    arm: str,
    seed: int,
    graph: ramify.ChannelGraph,
    optimizer: torch.optim.Optimizer,
    data: Epochs,
    settings: Settings,
    *,
    last: bool,
) -> ramify.ChannelGraph:
    """Propose, select, stay within the budget, apply."""
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
        share = 1 - (0.5**0.5) ** (1 / settings.rounds)
        rule = ramify.TopFraction(0.9 if last else share)
    else:
        method = ramify.SplittingDescent(signed=1.0 if arm == "s2d" else 1.3)
    proposals = method.propose(graph, cross_entropy, probe)
    chosen = ramify.fit(rule.select(proposals), graph, {"params": settings.params})
    if not chosen:
        return graph
    return ramify.apply(graph, [proposal.edit for proposal in chosen], optimizer=optimizer)


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
