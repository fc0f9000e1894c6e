"""Train a network, learn every morphism, then apply each morphism of a few groups."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ramify
from experiments.gauss_newton.epochs import Epochs, train_on
from experiments.resume import Stage, once
from ramify.cost import CostModel
from ramify.data import batches, load
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

RIVALS = ("line search", "expansion")
SETS = ("test", "training")
"""Of the images on which a true change of the loss is measured."""
Batch = tuple[Tensor, Tensor]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """The settings of the command.

    Attributes:
        model: a built-in network.
        width: of its layers.
        groups: the groups whose morphisms are applied: names, or places such as `first`.
        samples: training images.
        tests: test images on which true changes are measured, and as many training images.
        epochs: of training the weights.
        phase: epochs of learning morphisms, with frozen weights.
        batch: samples per step.
        learners: how morphisms are learned, CURVATURE:RADIUS each: gauss-newton (the paper's) or
            fisher; the bound on the displacements, 0 for no bound, as in the paper.
        rivals: channels of the first group whose split is also found by line search and by
            expanding the network (Figure 4).
        steps: of Adam on the expanded network.
        lr: learning rate of the weights.
        schedule: of that learning rate; constant, as in the paper, or cosine.
    """

    model: str = "vgg19"
    width: int = 16
    groups: Sequence[str] = ("first", "ninth", "last")
    samples: int = 10_000
    tests: int = 2_000
    epochs: int = 20
    phase: int = 20
    batch: int = 64
    learners: Sequence[str] = ("gauss-newton:1",)
    rivals: int = 0
    steps: int = 300
    lr: float = 0.1
    schedule: str = "constant"


def run(seed: int, settings: Settings, say: Say, stage: Stage = once) -> dict[str, Any]:
    """One network with one seed.

    Args:
        seed: of all randomness.
        settings: what to do.
        say: called with progress messages.
        stage: keeps the results of slow steps.

    Returns:
        Points (learner, group, channel, kind, estimated and true ΔL) of the learners and groups,
        and the splits of Figure 4 (way, channel, true decrease).
    """
    torch.manual_seed(seed)
    whole = load("cifar10")
    dataset = replace(
        whole, x_train=whole.x_train[: settings.samples], y_train=whole.y_train[: settings.samples]
    )
    shape = tuple(dataset.x_train.shape[1:])
    model = build(settings.model, dataset_shape=shape, classes=10, width=settings.width)
    epochs = Epochs(dataset, settings.batch, seed)
    kept = stage("trained", partial(train, model, epochs, settings, say))
    model.load_state_dict(kept["model"])
    test = _held(whole.x_test, whole.y_test, settings.tests)
    loss, accuracy = evaluate(model, test)
    say(f"trained: test accuracy {100 * accuracy:.1f} %, test loss {loss:.3f}")
    graph = ramify.trace(model, dataset.x_train[:1])
    sets = (test, _held(dataset.x_train, dataset.y_train, settings.tests))
    trials = {
        name: Trial(graph, cross_entropy, held) for name, held in zip(SETS, sets, strict=True)
    }
    learned = {}
    for learner in settings.learners:
        epochs.done[:] = range(settings.epochs)  # every learner sees the same batches
        made = partial(learn, graph, epochs, learner, settings.phase, say)
        learned[learner] = restored(graph, stage(f"learned-{_file(learner)}", made))
    groups = [group_at(graph, name) for name in settings.groups]
    points: list[dict[str, Any]] = []
    for learner, group in itertools.product(settings.learners, groups):
        mine = [proposal for proposal in learned[learner] if proposal.edit.group == group]
        pruned = {p["channel"]: p for p in points if (p["group"], p["kind"]) == (group, "prune")}
        found = stage(f"points-{_file(learner)}-{group}", partial(measured, trials, mine, pruned))
        points += [{"learner": learner, **point} for point in found]
        say(f"applied the morphisms of {group}, {learner}")
    splits = figure_4(graph, epochs, settings, learned, trials, say, stage)
    return {
        "train_loss": kept["loss"],
        "test_loss": loss,
        "test_accuracy": accuracy,
        "points": points,
        "splits": splits,
    }


def _held(x: Tensor, y: Tensor, count: int) -> list[Batch]:
    """Batches of the first images."""
    return list(zip(x[:count].split(500), y[:count].split(500), strict=True))


def _file(learner: str) -> str:
    return learner.replace(":", "-")


def train(model: nn.Module, epochs: Epochs, settings: Settings, say: Say) -> dict[str, Any]:
    """Train with the paper's settings except the schedule; the state and the last mean loss."""
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
    graph: ramify.ChannelGraph, epochs: Epochs, learner: str, phase: int, say: Say
) -> list[dict[str, Any]]:
    """The morphisms of all channels, as plain values and tensors, best first."""
    started = time.monotonic()
    curvature, radius = learner.split(":")
    method = GaussNewton(
        epochs=phase, radius=float(radius) or None, curvature=curvature, seed=epochs.seed
    )
    proposals = method.propose(graph, cross_entropy, epochs)
    say(f"learned {len(proposals)} morphisms in {time.monotonic() - started:.0f} s, {learner}")
    return [
        {"split": isinstance(p.edit, Split), "gain": p.gain} | {"edit": vars(p.edit)}
        for p in proposals
    ]


def restored(graph: ramify.ChannelGraph, kept: Sequence[dict[str, Any]]) -> list[ramify.Proposal]:
    """The proposals from the output of `learn`."""
    prices, found = CostModel(graph), []
    for one in kept:
        edit = (Split if one["split"] else Prune)(**one["edit"])
        found.append(ramify.Proposal(edit, one["gain"], prices.added([edit]), graph=graph))
    return found


PLACES = {"first": 0, "ninth": 8, "last": -1}


def group_at(graph: ramify.ChannelGraph, name: str) -> str:
    """A group by its place among the groups that can be split, or by its name."""
    splittable = [group.name for group in graph.groups if group.can_split]
    return splittable[PLACES[name]] if name in PLACES else graph[name].name


def measured(
    trials: Mapping[str, Trial],
    proposals: Sequence[ramify.Proposal],
    pruned: Mapping[int, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """ΔL of each morphism of a group: estimated, and measured after applying the edit.

    Args:
        trials: one for each set of images.
        proposals: for the group.
        pruned: channel -> the measured ΔL of its prune, where known; prunes are not learned.

    Returns:
        The points.
    """
    points = []
    for proposal in proposals:
        edit, split = proposal.edit, isinstance(proposal.edit, Split)
        assert isinstance(edit.channel, int)
        known = {} if split else pruned.get(edit.channel, {})
        true = {
            name: known[name] if known else -trial.decrease([edit])
            for name, trial in trials.items()
        }
        kind = "split" if split else "prune"
        place = {"group": edit.group, "kind": kind, "channel": edit.channel}
        points.append(place | {"estimated": -proposal.gain} | true)
    return points


def figure_4(
    graph: ramify.ChannelGraph,
    epochs: Epochs,
    settings: Settings,
    learned: Mapping[str, Sequence[ramify.Proposal]],
    trials: Mapping[str, Trial],
    say: Say,
    stage: Stage = once,
) -> list[dict[str, Any]]:
    """The true decrease for each way to find a split of the same channel (Figure 4)."""
    if not settings.rivals:
        return []
    name, channels = group_at(graph, "first"), range(settings.rivals)
    ways: dict[str, list[Edit]] = {}
    for learner, proposals in learned.items():
        splits = [p.edit for p in proposals if p.edit.group == name and isinstance(p.edit, Split)]
        ways[learner] = [edit for edit in splits if edit.channel in channels]
    drawn = [batches(epochs.dataset, 128, epochs.seed, 10_000 + n) for n in range(4)]
    method = LineSearch(groups=(name,), channels=tuple(channels))
    found = method.propose(graph, cross_entropy, [next(iter(some)) for some in drawn])
    ways["line search"] = [proposal.edit for proposal in found]
    ways["expansion"] = []
    for channel in channels:
        made = partial(expanded, graph, settings.steps, epochs, name, channel)
        parts = stage(f"expanded-{channel}", made)
        ways["expansion"].append(binary_split(name, channel, parts))
        say(f"Figure 4: {channel + 1} of {len(channels)} channels expanded")
    return [
        {"way": way, "channel": edit.channel}
        | {name: trial.decrease([edit]) for name, trial in trials.items()}
        for way, edits in ways.items()
        for edit in edits
    ]


def expanded(
    graph: ramify.ChannelGraph, steps: int, epochs: Epochs, name: str, channel: int
) -> dict[str, Tensor]:
    """A split learned by the expanded network itself: Adam on the true loss of new batches.

    `ramify.methods.Expansion` uses all of its batches in every step; here the oracle sees as much
    data as Gauss-Newton, and its learning rate falls to 0 with a cosine schedule.

    Args:
        graph: the traced model.
        steps: of Adam.
        epochs: the training images and the seed.
        name: of the group.
        channel: of the group.

    Returns:
        The displacement, one kernel per producer.
    """
    torch.manual_seed(epochs.seed)
    parts, parameters = {}, dict(graph.model.named_parameters())
    for slot in (slot for slot in graph[name].slots if slot.role == "producer"):
        kernel = kernels(parameters[slot.name], slot.dim, graph.positions(graph[name], slot))
        kernel = kernel[channel].detach()
        parts[slot.name] = 0.1 * kernel.square().mean().sqrt() * torch.randn_like(kernel)
    adam = torch.optim.Adam(parts.values(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    fresh = Epochs(epochs.dataset, 128, epochs.seed)
    stream = itertools.chain.from_iterable(fresh for _ in itertools.count())
    for batch in itertools.islice(stream, steps):
        _, slopes = Trial(graph, cross_entropy, [batch]).slopes(binary_split(name, channel, parts))
        for part, slope in zip(parts.values(), slopes.values(), strict=True):
            part.grad = slope[0] - slope[1]
        adam.step()
        schedule.step()
    return parts


def summary(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The accuracy of the estimates of one network, by learner, kind and group.

    Args:
        points: of `run`.

    Returns:
        For each: Pearson's r, on training images too, the share of the top 30 % whose sign is
        right, and the slope of true over estimated.
    """
    rows = []
    for learner, kind, group in dict.fromkeys(map(_place, points)):
        mine = [point for point in points if _place(point) == (learner, kind, group)]
        estimated, true, training = (
            np.array([point[name] for point in mine]) for name in ("estimated", *SETS)
        )
        top = np.argsort(estimated)[: math.ceil(0.3 * len(mine))]
        rows.append(
            {
                "learner": learner,
                "kind": kind,
                "group": group,
                "channels": len(mine),
                "r": _correlation(estimated, true),
                "r training": _correlation(estimated, training),
                "sign": float((np.sign(estimated[top]) == np.sign(true[top])).mean()),
                "slope": float((estimated * true).sum() / (estimated**2).sum()),
            }
        )
    return rows


def _place(point: dict[str, Any]) -> tuple[str, str, str]:
    return point["learner"], point["kind"], point["group"]


def _correlation(estimated: np.ndarray, true: np.ndarray) -> float:
    """Pearson's r; NaN if one of the variables is constant."""
    if min(estimated.std(), true.std()) == 0:
        return math.nan
    return float(np.corrcoef(estimated, true)[0, 1])


def wins(splits: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How well each way to find a split works on the channels of one network.

    Args:
        splits: of `run`.

    Returns:
        For each way: the mean decrease on test and on training images, the share of the channels
        on which it is above line search, and on which it is above the expanded network (test).
    """
    ways = {
        way: sorted((s for s in splits if s["way"] == way), key=lambda split: split["channel"])
        for way in dict.fromkeys(split["way"] for split in splits)
    }
    return [
        {"way": way}
        | {name: float(np.mean([split[name] for split in mine])) for name in SETS}
        | {
            rival: float(
                np.mean(
                    [
                        one["test"] > other["test"]
                        for one, other in zip(mine, ways[rival], strict=True)
                    ]
                )
            )
            for rival in RIVALS
        }
        for way, mine in ways.items()
    ]
