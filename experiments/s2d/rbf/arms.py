"""The ways to reach eight neurons; those that grow use `ramify.apply`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

import ramify
from experiments.s2d.rbf.network import RBF
from experiments.s2d.rbf.task import (
    DTYPE,
    REACH,
    Task,
    make_task,
    mse,
    network,
    squared_error,
    stream,
)
from experiments.s2d.rbf.training import Tick, fit, optimizer_of
from ramify import ChannelGraph, Proposal, Split

NEURONS = 8
GROUP = "hidden"
ARMS = {
    "s2d": "S2D",
    "random": "random split",
    "new": "new neuron",
    "boosting": "gradient boosting",
    "scratch": "from scratch",
    "new-positive": "new neuron, positive",
    "boosting-positive": "gradient boosting, positive",
    "scratch-positive": "from scratch, positive",
}
POSITIVE = "-positive"  # ends the arms whose drawn outgoing weights are absolute values
TARGETS = ("signed", "positive")


@dataclass(frozen=True)
class Settings:
    """The settings of the command.

    Attributes:
        iterations: Adam steps per phase; there is a phase for each width from 1 to 8.
        step: ε of the splits.
        start: standard deviation of the first neuron's weights.
        target: `signed`, outgoing weights of both signs as printed; or `positive`, the absolute
            values of those of the true function and of the first neuron.
        reach: the points lie in [-reach, reach].
    """

    iterations: int = 10_000
    step: float = 0.01
    start: float = 0.1
    target: str = "signed"
    reach: float = REACH


def task_of(seed: int, settings: Settings) -> Task:
    """The fitting task of this seed."""
    return make_task(seed, settings.target == "positive", settings.reach)


def first_neuron(task: Task, settings: Settings) -> RBF:
    """The network that growing starts from, the same for every arm."""
    generator = stream(task.seed, "start")
    return network(1, generator, settings.start, settings.target == "positive")


@dataclass
class Path:
    """The course of one arm.

    Attributes:
        curve: loss before every `EVERY`-th iteration.
        phases: loss at the end of each phase.
        indices: splitting index of each split neuron (S2D).
        stages: a copy of the network at the end of some widths.
    """

    net: RBF
    curve: list[float] = field(default_factory=list)
    phases: list[float] = field(default_factory=list)
    indices: list[float] = field(default_factory=list)
    stages: dict[int, dict[str, Tensor]] = field(default_factory=dict)


Next = Callable[[ChannelGraph, Task, Settings, Generator, Path], Split]


def propose(graph: ChannelGraph, task: Task, step: float) -> list[Proposal]:
    """The half-and-half split along v_min of every neuron, smallest splitting index first."""
    method = ramify.SplittingDescent(step=step, eigen="exact")
    return method.propose(graph, squared_error, [(task.x, task.y)])


def steepest(
    graph: ChannelGraph, task: Task, settings: Settings, _: Generator, path: Path
) -> Split:
    """S2D: the neuron with the smallest index, even if positive, so that all arms reach 8."""
    proposals = propose(graph, task, settings.step)
    best = (ramify.Threshold(most=1).select(proposals) or proposals)[0]
    assert best.splitting_index is not None
    assert isinstance(best.edit, Split)
    path.indices.append(best.splitting_index)
    return best.edit


def binary_split(channel: int, move: Tensor) -> Split:
    """Two copies of half the outgoing weight, displaced by ± `move` of shape (2,)."""
    offsets = {
        f"{GROUP}.weight": torch.stack([move[:1], -move[:1]]),
        f"{GROUP}.bias": torch.stack([move[1], -move[1]]),
    }
    return Split(GROUP, channel, (0.5, 0.5), offsets)


def anywhere(
    graph: ChannelGraph, _: Task, settings: Settings, generator: Generator, __: Path
) -> Split:
    """Random split: a random neuron, a random direction, the step of S2D."""
    channel = int(torch.randint(graph[GROUP].width, (), generator=generator))
    direction = torch.randn(2, generator=generator, dtype=DTYPE)
    return binary_split(channel, settings.step * direction / direction.norm())


def addition(graph: ChannelGraph, fresh: RBF) -> Split:
    """Neuron 0 and a copy without outgoing weight, moved to the position of the new neuron."""
    offsets = {}
    for name in (f"{GROUP}.weight", f"{GROUP}.bias"):
        old = graph.model.get_parameter(name).detach()[0]
        move = fresh.get_parameter(name).detach()[0] - old
        offsets[name] = torch.stack([torch.zeros_like(move), move])
    return Split(GROUP, 0, (1.0, 0.0), offsets)


def grow(arm: str, task: Task, settings: Settings, tick: Tick, keep: int = 0) -> Path:
    """Grow from one neuron to eight, with a phase of training and a new Adam at each width.

    Args:
        arm: a key of `ARMS`, except those from scratch.
        task: the fitting task.
        settings: of the command.
        tick: called with the iterations done since the last call.
        keep: the width whose trained network is kept in `stages`.

    Returns:
        The course of the arm.
    """
    generator = stream(task.seed, arm.removesuffix(POSITIVE))
    net = first_neuron(task, settings)
    graph, path = ramify.trace(net, task.x), Path(net)
    for width in range(1, NEURONS + 1):
        if width > 1:
            graph = widen(arm, graph, task, settings, generator, path)
        frozen = width - 1 if arm.startswith("boosting") else 0
        path.curve += fit(net, task, optimizer_of(net), settings.iterations, tick, frozen)
        path.phases.append(mse(net, task))
        if width == keep:
            path.stages[width] = {n: p.detach().clone() for n, p in net.named_parameters()}
    return path


def widen(
    arm: str,
    graph: ChannelGraph,
    task: Task,
    settings: Settings,
    generator: Generator,
    path: Path,
) -> ChannelGraph:
    """Add one neuron by the method of the arm."""
    splits: dict[str, Next] = {"s2d": steepest, "random": anywhere}
    if arm in splits:
        return ramify.apply(graph, [splits[arm](graph, task, settings, generator, path)])
    fresh = network(1, generator, positive=arm.endswith(POSITIVE))
    graph = ramify.apply(graph, [addition(graph, fresh)])
    with torch.no_grad():
        path.net.out.weight[:, -1] = fresh.out.weight[:, 0]
    return graph


def scratch(task: Task, settings: Settings, tick: Tick, positive: bool = False) -> Path:
    """Eight neurons drawn from N(0, 3) at once, trained for the same total number of iterations."""
    net = network(NEURONS, stream(task.seed, "scratch"), positive=positive)
    path, optimizer = Path(net), optimizer_of(net)
    for _ in range(NEURONS):
        path.curve += fit(net, task, optimizer, settings.iterations, tick)
        path.phases.append(mse(net, task))
    return path
