"""Train a network, learn every morphism, then really apply each of those of a few groups."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ramify
from experiments.gauss_newton.epochs import Epochs
from ramify.data import batches, load
from ramify.methods import Expansion, GaussNewton, LineSearch, Trial
from ramify.models import build
from ramify.run.training import (
    Training,
    cross_entropy,
    evaluate,
    make_optimizer,
    train_epoch,
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
        rivals: channels of the first group whose split is also sought by line search and by
            expanding the network (Figure 4).
        lr: learning rate of the weights; constant, as in the paper.
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
    rivals: int = 0
    lr: float = 0.1
    seed: int = 0


def run(settings: Settings, say: Say) -> dict[str, Any]:
    """One network of one seed.

    Args:
        settings: what to do.
        say: told how far it is.

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
    trained = train(model, epochs, settings, say)
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
    started = time.monotonic()
    method = GaussNewton(epochs=settings.phase, radius=settings.radius or None, seed=settings.seed)
    proposals = method.propose(graph, cross_entropy, epochs)
    say(f"learned {len(proposals)} morphisms in {time.monotonic() - started:.0f} s")
    chosen = [group_at(graph, name) for name in settings.groups]
    points = measure(graph, test, proposals, chosen, say)
    return {
        "settings": asdict(settings),
        "train_loss": trained,
        "test_loss": loss,
        "test_accuracy": accuracy,
        "points": points,
        "rivals": rivals(graph, settings, epochs, test, proposals, say),
    }


def train(model: nn.Module, epochs: Epochs, settings: Settings, say: Say) -> float:
    """Plain training at the paper's settings; the last epoch's mean loss."""
    training = Training(
        epochs=settings.epochs,
        lr=settings.lr,
        nesterov=True,
        weight_decay=1e-4,
        schedule="constant",
    )
    optimizer = make_optimizer(model, training)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    mean = math.inf
    for epoch in range(settings.epochs):
        mean, _ = train_epoch(model, cross_entropy, epochs, optimizer, lambda step: 1.0)
        say(f"epoch {epoch + 1} of {settings.epochs}: training loss {mean:.3f}")
    return mean


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
) -> list[dict[str, Any]]:
    """ΔL of each morphism of some groups: as estimated, and as the applied edit really gives."""
    trial = Trial(graph, cross_entropy, test)
    points = []
    for name in groups:
        for proposal in proposals:
            if proposal.edit.group != name:
                continue
            kind = "split" if isinstance(proposal.edit, ramify.Split) else "prune"
            points.append(
                {
                    "group": name,
                    "kind": kind,
                    "channel": proposal.edit.channel,
                    "estimated": -proposal.gain,
                    "true": -trial.decrease([proposal.edit]),
                }
            )
        say(f"applied the morphisms of {name}")
    return points


def rivals(
    graph: ramify.ChannelGraph,
    settings: Settings,
    epochs: Epochs,
    test: Sequence[Batch],
    proposals: Sequence[ramify.Proposal],
    say: Say,
) -> list[dict[str, Any]]:
    """The true decrease by each way of finding a split of the same channel (Figure 4)."""
    if not settings.rivals:
        return []
    name = group_at(graph, "first")
    sample = [next(iter(batches(epochs.dataset, 128, settings.seed, 10_000 + n))) for n in range(2)]
    trial = Trial(graph, cross_entropy, test)
    found: dict[int, dict[str, Any]] = {}
    learned = [p for p in proposals if p.edit.group == name and isinstance(p.edit, ramify.Split)]
    groups, channels = (name,), tuple(range(settings.rivals))
    line_search = LineSearch(groups=groups, channels=channels)
    expansion = Expansion(groups=groups, channels=channels)
    for way in WAYS:
        if way == "gauss-newton":
            offered = learned
        else:
            method = line_search if way == "line search" else expansion
            offered = method.propose(graph, cross_entropy, sample)
        for proposal in offered:
            if proposal.edit.channel < settings.rivals:
                row = found.setdefault(proposal.edit.channel, {"channel": proposal.edit.channel})
                row[way] = trial.decrease([proposal.edit])
        say(f"Figure 4: {way} done")
    return [found[channel] for channel in sorted(found)]


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
