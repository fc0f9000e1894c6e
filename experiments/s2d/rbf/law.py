"""The theory of one split, compared with actual splits of the network at m = 7."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ramify
from experiments.s2d.rbf.arms import GROUP, binary_split, propose
from experiments.s2d.rbf.network import RBF
from experiments.s2d.rbf.task import Task, network, squared_error, stream
from experiments.s2d.rbf.training import Tick, fit, optimizer_of
from ramify import Proposal, Split

WIDTH = 7
TOP = 5  # eigenvalues in the figure
FINE = 1e-4  # ε of the laws, which hold for ε → 0: at a good fit λ is as small as ε² of the growing
ANGLES = tuple(range(-90, 91, 10))
BLIND = 4.0  # exp(-z²/2) is below 4e-4 where |z| is larger


def restored(stage: dict[str, Tensor]) -> RBF:
    """The network with these parameters."""
    net = network(len(stage[f"{GROUP}.bias"]), stream(0, "restored"))
    net.load_state_dict(stage)
    return net


def after_split(net: RBF, task: Task, split: Split) -> RBF:
    """A copy of the network after the split."""
    other = copy.deepcopy(net)
    ramify.apply(ramify.trace(other, task.x), [split])
    return other


def decrease(before: RBF, after: RBF, task: Task) -> float:
    """Decrease of the MSE as a mean of products; a difference of two MSEs would lose digits."""
    with torch.no_grad():
        old, new = before(task.x), after(task.x)
        return float(((old - new) * (old + new - 2 * task.y)).mean())


def correlation(a: list[float], b: list[float]) -> float:
    """Pearson's r."""
    return float(np.corrcoef(a, b)[0, 1])


def eigenvalues(net: RBF, task: Task, step: float, iterations: int, tick: Tick) -> dict[str, Any]:
    """Smallest eigenvalues and the loss decrease by splitting, at once and after training.

    Args:
        net: the trained network at m = 7.
        task: the fitting task.
        step: ε used in growing.
        iterations: of training after each split.
        tick: called with the iterations done since the last call.

    Returns:
        `index`: λ_min of the `TOP` neurons. `decrease`: right after the split, with ε = `FINE`
        (`fine`) and with ε = `step` (`coarse`), and after a phase of training (`trained`).
        `r`: Pearson's, of each with -λ_min. `slope`: fitted decrease per -λ_min over the theorem's
        ε²/2, fine and coarse.
    """
    graph = ramify.trace(net, task.x)
    chosen = {name: propose(graph, task, size)[:TOP] for name, size in _steps(step)}
    index = [p.index for p in chosen["fine"] if p.index is not None]
    gains = [-value for value in index]
    found: dict[str, list[float]] = {}
    for name, proposals in chosen.items():
        splits = [after_split(net, task, _split(proposal)) for proposal in proposals]
        found[name] = [decrease(net, split, task) for split in splits]
    for split in splits:
        fit(split, task, optimizer_of(split), iterations, tick)
    found["trained"] = [decrease(net, split, task) for split in splits]
    return {
        "index": index,
        "decrease": found,
        "r": {name: correlation(gains, values) for name, values in found.items()},
        "slope": {
            name: float(np.polyfit(gains, found[name], 1)[0] / (0.5 * size**2))
            for name, size in _steps(step)
        },
    }


def _steps(step: float) -> tuple[tuple[str, float], ...]:
    return ("fine", FINE), ("coarse", step)


def _split(proposal: Proposal) -> Split:
    assert isinstance(proposal.edit, Split)
    return proposal.edit


def angles(net: RBF, task: Task, step: float) -> dict[str, Any]:
    """Loss decrease of splitting the top neuron at an angle to its minimum eigenvector.

    Args:
        net: the trained network at m = 7.
        task: the fitting task.
        step: ε used in growing.

    Returns:
        `degrees`; the `decrease` measured right after the split, `fine` and `coarse`; and for
        `fine` the one `expected` by the theorem, -ε²/2 vᵀSv.
    """
    graph = ramify.trace(net, task.x)
    best = _split(propose(graph, task, 1.0)[0])
    parts = [best.offsets[f"{GROUP}.{name}"][0].reshape(1) for name in ("weight", "bias")]
    low = torch.cat(parts)
    side = torch.stack([-low[1], low[0]])
    matrix = ramify.splitting_matrix(graph, GROUP, squared_error, [(task.x, task.y)])[best.channel]
    turns = [math.radians(degrees) for degrees in ANGLES]
    directions = [math.cos(turn) * low + math.sin(turn) * side for turn in turns]
    found = {}
    for name, size in _steps(step):
        splits = [after_split(net, task, binary_split(best.channel, size * v)) for v in directions]
        found[name] = [decrease(net, split, task) for split in splits]
    expected = [-0.5 * FINE**2 * float(v @ matrix @ v) for v in directions]
    return {"degrees": list(ANGLES), "decrease": found, "expected": expected}


def blind_share(net: RBF, task: Task) -> float:
    """The share of the squared error at points that no neuron covers: all |z| above `BLIND`.

    There gradients and splitting matrices vanish, however large the error.

    Args:
        net: the trained network.
        task: the fitting task.

    Returns:
        From 0 to 1.
    """
    with torch.no_grad():
        error = (net(task.x) - task.y).square()[:, 0]
        unseen = net.hidden(task.x).abs().amin(dim=1) > BLIND
        return float(error[unseen].sum() / error.sum())


def both_signs(net: RBF) -> bool:
    """Whether there are both positive and negative outgoing weights."""
    weights = net.out.weight.detach()
    return bool((weights > 0).any() and (weights < 0).any())


def other_sign_share(net: RBF, task: Task) -> float:
    """The share of the squared error at points where no outgoing weight has the target's sign.

    Args:
        net: the trained network.
        task: the fitting task.

    Returns:
        From 0 to 1; 0 if there are outgoing weights of both signs.
    """
    with torch.no_grad():
        error = (net(task.x) - task.y).square()
        other = torch.zeros_like(error, dtype=torch.bool)
        for sign in (-1.0, 1.0):
            if not (sign * net.out.weight > 0).any():
                other |= sign * task.y > 0
        return float(error[other].sum() / error.sum())
