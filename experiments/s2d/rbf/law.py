"""What the theory says of one split, held against real splits of the network at m = 7."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ramify
from experiments.s2d.rbf.arms import GROUP, halves, propose
from experiments.s2d.rbf.task import Task, mse, network, squared_error, stream
from experiments.s2d.rbf.training import Tick, fit, optimizer_of
from ramify import Split
from ramify.models.rbf import RBF

WIDTH = 7
TOP = 5  # eigenvalues in the figure
ANGLES = tuple(range(-90, 91, 10))
BLIND = 4.0  # exp(-z²/2) is below 4e-4 where |z| is larger


def restored(stage: dict[str, Tensor]) -> RBF:
    """The network whose parameters these are."""
    net = network(len(stage[f"{GROUP}.bias"]), stream(0, "restored"))
    net.load_state_dict(stage)
    return net


def after_split(net: RBF, task: Task, split: Split) -> RBF:
    """A really split copy of the network."""
    other = copy.deepcopy(net)
    ramify.apply(ramify.trace(other, task.x), [split])
    return other


def correlation(a: list[float], b: list[float]) -> float:
    """Pearson's r."""
    return float(np.corrcoef(a, b)[0, 1])


def eigenvalues(net: RBF, task: Task, step: float, iterations: int, tick: Tick) -> dict[str, Any]:
    """Smallest eigenvalues against the loss decrease of splitting there, at once and trained.

    Args:
        net: the trained network at m = 7.
        task: what it is fitted to.
        step: ε.
        iterations: of training after each split.
        tick: follows the iterations.

    Returns:
        `index` (λ_min of the `TOP` neurons), `decrease` right after the split, `trained` after a
        phase of training, Pearson's `r` of each with -λ_min, and `slope`: the fitted decrease per
        -λ_min over the ε²/2 of the theorem.
    """
    before, index, decrease, trained = mse(net, task), [], [], []
    for proposal in propose(ramify.trace(net, task.x), task, step)[:TOP]:
        assert isinstance(proposal.edit, Split)
        assert proposal.index is not None
        split = after_split(net, task, proposal.edit)
        index.append(proposal.index)
        decrease.append(before - mse(split, task))
        fit(split, task, optimizer_of(split), iterations, tick)
        trained.append(before - mse(split, task))
    gains = [-value for value in index]
    return {
        "index": index,
        "decrease": decrease,
        "trained": trained,
        "r": correlation(gains, decrease),
        "r_trained": correlation(gains, trained),
        "slope": float(np.polyfit(gains, decrease, 1)[0] / (0.5 * step**2)),
    }


def angles(net: RBF, task: Task, step: float) -> dict[str, Any]:
    """Loss decrease of splitting the top neuron at an angle to its minimum eigenvector.

    Args:
        net: the trained network at m = 7.
        task: what it is fitted to.
        step: ε.

    Returns:
        `degrees`, the `decrease` measured, and the one the theorem `expected`,
        -ε²/2 (λ_min cos² + λ_max sin²).
    """
    graph = ramify.trace(net, task.x)
    best = propose(graph, task, step)[0].edit
    assert isinstance(best, Split)
    parts = [best.offsets[f"{GROUP}.{name}"][0].reshape(1) for name in ("weight", "bias")]
    low = torch.cat(parts) / step
    side = torch.stack([-low[1], low[0]])
    matrix = ramify.splitting_matrix(graph, GROUP, squared_error, [(task.x, task.y)])[best.channel]
    before, decrease, expected = mse(net, task), [], []
    for degrees in ANGLES:
        turn = math.radians(degrees)
        direction = math.cos(turn) * low + math.sin(turn) * side
        split = after_split(net, task, halves(best.channel, step * direction))
        decrease.append(before - mse(split, task))
        expected.append(-0.5 * step**2 * float(direction @ matrix @ direction))
    return {"degrees": list(ANGLES), "decrease": decrease, "expected": expected}


def blind_share(net: RBF, task: Task) -> float:
    """The share of the squared error at points that no neuron sees: all |z| above `BLIND`.

    There every gradient and every splitting matrix is blind, however large the error.

    Args:
        net: the trained network.
        task: what it was fitted to.

    Returns:
        From 0 to 1.
    """
    with torch.no_grad():
        error = (net(task.x) - task.y).square()[:, 0]
        unseen = net.hidden(task.x).abs().amin(dim=1) > BLIND
        return float(error[unseen].sum() / error.sum())
