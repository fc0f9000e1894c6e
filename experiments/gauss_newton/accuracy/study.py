"""Train a network, learn every morphism, then really apply each of those of a few groups."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ramify
from experiments.gauss_newton.epochs import Epochs, train_on
from experiments.resume import Stage, once
from ramify.cost import CostModel
from ramify.data import Dataset, batches, load
from ramify.edit import Edit, Prune, Split
from ramify.methods import GaussNewton, LineSearch, Trial
from ramify.methods.trial import binary_split
from ramify.models import build
from ramify.tracing.indexing import kernels
from ramify.train.epoch import (
    Training,
    cross_entropy,
    evaluate,
    make_optimizer,
)

WAYS = ("gauss-newton", "line search", "expansion")
Batch = tuple[Tensor, Tensor]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What the command decides.

    Attributes:
        model: a built-in network.
        width: of its layers.
        groups: the groups whose morphisms are really applied: names, or places such as `first`.
        samples: training images.
        tests: test images on which true changes are measured.
        epochs: of training, with the weights moving.
        phase: epochs of learning morphisms, with the weights held.
        batch: samples a step.
        radius: of the displacements; 0 for none, as in the paper.
        curvature: gauss-newton, the paper's, or fisher.
        rivals: channels of the first group whose split is also sought by line search and by
            expanding the network (Figure 4).
        steps: of Adam on the expanded network.
        lr: learning rate of the weights.
        schedule: of that learning rate; constant, as in the paper, or cosine.
        seed: of everything.
    """

    model: str = "vgg19"
    width: int = 16
    groups: tuple[str, ...] = ("first", "ninth", "last")
    samples: int = 10_000
    tests: int = 2_000
    epochs: int = 20
    phase: int = 20
    batch: int = 64
    radius: float = 1.0
    curvature: str = "gauss-newton"
    rivals: int = 0
    steps: int = 300
    lr: float = 0.1
    schedule: str = "constant"
    seed: int = 0


def run(settings: Settings, say: Say, stage: Stage = once) -> dict[str, Any]:
    """One network of one seed.

    Args:
        settings: what to do.
        say: told how far it is.
        stage: keeps what took long.

    Returns:
        Points (channel, kind, estimated and true ΔL) of each group, and how the rivals did.
    """
    torch.manual_seed(settings.seed)
    whole = load("cifar10")
    dataset = replace(
        whole, x_train=whole.x_train[: settings.samples], y_train=whole.y_train[: settings.samples]
    )
    shape = tuple(dataset.x_train.shape[1:])
    model = build(settings.model, dataset_shape=shape, classes=10, width=settings.width)
    epochs = Epochs(dataset, settings.batch, settings.seed)
    kept = stage("trained", partial(train, model, epochs, settings, say))
    model.load_state_dict(kept["model"])
    epochs.done[:] = range(settings.epochs)
    test = [
        (x, y)
        for x, y in zip(
            whole.x_test[: settings.tests].split(500),
            whole.y_test[: settings.tests].split(500),
            strict=True,
        )
    ]
    loss, accuracy = evaluate(model, test)
    say(f"trained: test accuracy {100 * accuracy:.1f} %, test loss {loss:.3f}")
    graph = ramify.trace(model, dataset.x_train[:1])
    proposals = restored(graph, stage("learned", partial(learn, graph, epochs, settings, say)))
    chosen = [group_at(graph, name) for name in settings.groups]
    points = measure(graph, test, proposals, chosen, say, stage)
    return {
        "settings": asdict(settings),
        "train_loss": kept["loss"],
        "test_loss": loss,
        "test_accuracy": accuracy,
        "points": points,
        "rivals": rivals(graph, settings, epochs, test, proposals, say, stage),
    }


def train(model: nn.Module, epochs: Epochs, settings: Settings, say: Say) -> dict[str, Any]:
    """Plain training, by the paper's settings but for the schedule: state and last mean loss."""
    training = Training(
        epochs=settings.epochs,
        lr=settings.lr,
        nesterov=True,
        weight_decay=1e-4,
        schedule=settings.schedule,
    )
    optimizer = make_optimizer(model, training)
    mean = math.inf
    for epoch in range(settings.epochs):
        mean = train_on(model, epochs, optimizer, training, epoch)
        say(f"epoch {epoch + 1} of {settings.epochs}: training loss {mean:.3f}")
    return {"model": dict(model.state_dict()), "loss": mean}


def learn(
    graph: ramify.ChannelGraph, epochs: Epochs, settings: Settings, say: Say
) -> list[dict[str, Any]]:
    """The morphisms of all channels, as plain values and tensors, best first."""
    started = time.monotonic()
    method = GaussNewton(
        epochs=settings.phase,
        radius=settings.radius or None,
        curvature=settings.curvature,
        seed=settings.seed,
    )
    proposals = method.propose(graph, cross_entropy, epochs)
    say(f"learned {len(proposals)} morphisms in {time.monotonic() - started:.0f} s")
    return [
        {"split": isinstance(p.edit, Split), "gain": p.gain} | {"edit": vars(p.edit)}
        for p in proposals
    ]


def restored(graph: ramify.ChannelGraph, kept: Sequence[dict[str, Any]]) -> list[ramify.Proposal]:
    """The proposals of `learn`."""
    prices, found = CostModel(graph), []
    for one in kept:
        edit = (Split if one["split"] else Prune)(**one["edit"])
        found.append(ramify.Proposal(edit, one["gain"], prices.added([edit]), graph=graph))
    return found


PLACES = {"first": 0, "ninth": 8, "last": -1}


def group_at(graph: ramify.ChannelGraph, name: str) -> str:
    """A group by its place among those that split, or by its name."""
    splittable = [group.name for group in graph.groups if group.can_split]
    return splittable[PLACES[name]] if name in PLACES else graph[name].name


def measure(
    graph: ramify.ChannelGraph,
    test: Sequence[Batch],
    proposals: Sequence[ramify.Proposal],
    groups: Sequence[str],
    say: Say,
    stage: Stage = once,
) -> list[dict[str, Any]]:
    """ΔL of each morphism of some groups: as estimated, and as the applied edit really gives."""
    trial = Trial(graph, cross_entropy, test)
    points = []
    for name in groups:
        mine = [proposal for proposal in proposals if proposal.edit.group == name]
        points += stage(f"points-{name}", partial(_points, trial, mine))
        say(f"applied the morphisms of {name}")
    return points


def _points(trial: Trial, proposals: Sequence[ramify.Proposal]) -> list[dict[str, Any]]:
    return [
        {
            "group": proposal.edit.group,
            "kind": "split" if isinstance(proposal.edit, Split) else "prune",
            "channel": proposal.edit.channel,
            "estimated": -proposal.gain,
            "true": -trial.decrease([proposal.edit]),
        }
        for proposal in proposals
    ]


def rivals(
    graph: ramify.ChannelGraph,
    settings: Settings,
    epochs: Epochs,
    test: Sequence[Batch],
    proposals: Sequence[ramify.Proposal],
    say: Say,
    stage: Stage = once,
) -> list[dict[str, Any]]:
    """The true decrease by each way of finding a split of the same channel (Figure 4)."""
    if not settings.rivals:
        return []
    name, channels = group_at(graph, "first"), range(settings.rivals)
    trial = Trial(graph, cross_entropy, test)
    learned = [p.edit for p in proposals if p.edit.group == name]
    found: dict[int, dict[str, Any]] = {channel: {"channel": channel} for channel in channels}
    for way in WAYS:
        edits: Sequence[Edit]
        if way == "gauss-newton":
            edits = [e for e in learned if isinstance(e, Split) and e.channel in found]
        elif way == "line search":
            drawn = [batches(epochs.dataset, 128, settings.seed, 10_000 + n) for n in range(4)]
            sample = [next(iter(some)) for some in drawn]
            method = LineSearch(groups=(name,), channels=tuple(channels))
            edits = [p.edit for p in method.propose(graph, cross_entropy, sample)]
        else:
            kept = [
                stage(f"expanded-{c}", partial(expanded, graph, settings, epochs.dataset, name, c))
                for c in channels
            ]
            edits = [binary_split(name, c, v) for c, v in zip(channels, kept, strict=True)]
        for edit in edits:
            assert isinstance(edit.channel, int)
            found[edit.channel][way] = trial.decrease([edit])
        say(f"Figure 4: {way} done")
    return [found[channel] for channel in channels]


def expanded(
    graph: ramify.ChannelGraph, settings: Settings, dataset: Dataset, name: str, channel: int
) -> dict[str, Tensor]:
    """A split as the really expanded network learns it: Adam on the true loss of fresh batches.

    `ramify.methods.Expansion` takes all of its batches for every step; here the oracle sees as much
    data as Gauss-Newton does, and its learning rate falls to 0 by a cosine.

    Args:
        graph: the traced model.
        settings: steps and seed.
        dataset: the training images.
        name: of the group.
        channel: of the group.

    Returns:
        The displacement, one kernel a producer.
    """
    torch.manual_seed(settings.seed)
    parts, parameters = {}, dict(graph.model.named_parameters())
    for slot in (slot for slot in graph[name].slots if slot.role == "producer"):
        kernel = kernels(parameters[slot.name], slot.dim, graph.positions(graph[name], slot))
        kernel = kernel[channel].detach()
        parts[slot.name] = 0.1 * kernel.square().mean().sqrt() * torch.randn_like(kernel)
    adam = torch.optim.Adam(parts.values(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.steps)
    fresh = Epochs(dataset, 128, settings.seed)
    stream = itertools.chain.from_iterable(fresh for _ in itertools.count())
    for batch in itertools.islice(stream, settings.steps):
        _, slopes = Trial(graph, cross_entropy, [batch]).slopes(binary_split(name, channel, parts))
        for part, slope in zip(parts.values(), slopes.values(), strict=True):
            part.grad = slope[0] - slope[1]
        adam.step()
        schedule.step()
    return parts


def summary(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pearson's r, and the share of the top 30 % whose sign is right, by group and kind."""
    rows = []
    for group, kind in dict.fromkeys((p["group"], p["kind"]) for p in points):
        mine = [p for p in points if (p["group"], p["kind"]) == (group, kind)]
        estimated = np.array([p["estimated"] for p in mine])
        true = np.array([p["true"] for p in mine])
        top = np.argsort(estimated)[: math.ceil(0.3 * len(mine))]
        vary = min(estimated.std(), true.std()) > 0
        rows.append(
            {
                "group": group,
                "kind": kind,
                "channels": len(mine),
                "r": float(np.corrcoef(estimated, true)[0, 1]) if vary else math.nan,
                "sign": float((np.sign(estimated[top]) == np.sign(true[top])).mean()),
                "slope": float((estimated * true).sum() / (estimated**2).sum()),
            }
        )
    return rows


def wins(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each way of finding a split: mean decrease, and on how many channels it is ahead."""
    return [
        {
            "way": way,
            "mean": float(np.mean([row[way] for row in rows])),
            "best": f"{sum(row[way] == max(row[w] for w in WAYS) for row in rows)} of {len(rows)}",
            "above": f"{sum(row[way] > row['line search'] for row in rows)} of {len(rows)}",
        }
        for way in WAYS
    ]
