"""The ways from one neuron to seven: S2D, and S3D with several numbers of copies and c."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

import ramify
from experiments.s2d.rbf.arms import GROUP, Settings, first_neuron
from experiments.s2d.rbf.network import RBF
from experiments.s2d.rbf.task import Task, mse, squared_error
from experiments.s2d.rbf.training import Tick, fit, optimizer_of
from ramify import ChannelGraph, Proposal

NEURONS = 7  # which two, three and four copies a split all reach


@dataclass(frozen=True)
class Arm:
    """One way: `copies` per split, m, and `signed`, c."""

    label: str
    copies: int
    signed: float


ARMS = {
    "s2d": Arm("S2D (c = 1)", 2, 1.0),
    "m2": Arm("S3D, m = 2, c = 3", 2, 3.0),
    "m3": Arm("S3D, m = 3, c = 3", 3, 3.0),
    "m4": Arm("S3D, m = 4, c = 3", 4, 3.0),
    "c1.5": Arm("S3D, m = 2, c = 1.5", 2, 1.5),
    "c10": Arm("S3D, m = 2, c = 10", 2, 10.0),
}
BY_COPIES = ("s2d", "m2", "m3", "m4")
BY_C = ("s2d", "c1.5", "m2", "c10")


@dataclass
class Path:
    """The course of one arm.

    Attributes:
        curve: loss before every `EVERY`-th iteration.
        phases: loss at the end of each phase.
        widths: neurons of each phase.
        differs: of each split, whether S2D would have split another neuron.
        negative: of each split, whether a copy has a negative weight.
        rising: of each split, whether the loss had to rise because no split could lower it.
        stages: a copy of the network at the end of each width.
    """

    net: RBF
    curve: list[float] = field(default_factory=list)
    phases: list[float] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    differs: list[bool] = field(default_factory=list)
    negative: list[bool] = field(default_factory=list)
    rising: list[bool] = field(default_factory=list)
    stages: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def propose(graph: ChannelGraph, task: Task, arm: Arm, step: float) -> list[Proposal]:
    """The arm's best split of every neuron, largest gain first, none past `NEURONS`."""
    copies = (min(arm.copies, NEURONS + 1 - graph[GROUP].width),)
    method = ramify.SplittingDescent(signed=arm.signed, copies=copies, step=step, eigen="exact")
    return method.propose(graph, squared_error, [(task.x, task.y)])


def ends(graph: ChannelGraph, task: Task) -> tuple[Tensor, Tensor]:
    """λ_min and λ_max of every neuron."""
    matrices = ramify.splitting_matrix(graph, GROUP, squared_error, [(task.x, task.y)])
    values = torch.linalg.eigvalsh(matrices)
    return values[:, 0], values[:, -1]


def grow(arm: Arm, task: Task, settings: Settings, tick: Tick) -> Path:
    """Grow from one neuron to seven, with `iterations` of training for each added neuron.

    So networks of equal size have had the same number of iterations, whatever m. Each time the one
    neuron with the largest gain is split; for S2D even if that gain is negative, so that all arms
    reach the same size. A phase begins with a new Adam.

    Args:
        arm: how to split.
        task: the fitting task.
        settings: of the command.
        tick: called with the iterations done since the last call.

    Returns:
        The course of the arm.
    """
    net = first_neuron(task, settings)
    graph, path = ramify.trace(net, task.x), Path(net)
    width = 0
    while width < NEURONS:
        if width:
            graph = _widen(graph, task, arm, settings.step, path)
        fresh, width = graph[GROUP].width - width, graph[GROUP].width
        path.curve += fit(net, task, optimizer_of(net), fresh * settings.iterations, tick)
        path.phases.append(mse(net, task))
        path.widths.append(width)
        path.stages[width] = {n: p.detach().clone() for n, p in net.named_parameters()}
    return path


def _widen(graph: ChannelGraph, task: Task, arm: Arm, step: float, path: Path) -> ChannelGraph:
    best = propose(graph, task, arm, step)[0]
    assert isinstance(best.edit, ramify.Split)
    path.differs.append(best.edit.channel != int(ends(graph, task)[0].argmin()))
    path.negative.append(min(best.edit.weights) < 0)
    path.rising.append(best.gain <= 0)
    return ramify.apply(graph, [best.edit])
