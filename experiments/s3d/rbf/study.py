"""All arms of one seed, and one choice in detail."""

from __future__ import annotations

import torch
from torch import Tensor

import ramify
from experiments.s2d.rbf.arms import Settings, task_of
from experiments.s2d.rbf.law import after_split, both_signs, restored
from experiments.s2d.rbf.pool import Result
from experiments.s2d.rbf.study import line
from experiments.s2d.rbf.task import Task, mse
from experiments.s2d.rbf.training import Tick, fit, optimizer_of
from experiments.s3d.rbf.arms import ARMS, NEURONS, Path, ends, grow, propose

WIDTH = 4  # neurons at the fourth split, of Figure 2 (d)


def total_iterations(settings: Settings) -> int:
    """Adam steps of one seed."""
    return settings.iterations * (len(ARMS) * NEURONS + 2)


def run_seed(seed: int, settings: Settings, tick: Tick) -> Result:
    """All arms and the choice at the fourth split.

    Args:
        seed: of the true function and the points.
        settings: of the command.
        tick: called with the iterations done since the last call.

    Returns:
        JSON-compatible values: `arms` (final `mse`, `curve`, `phases`, `widths`, and of each split
        whether it `differs` from that of S2D, has a `negative` weight, is `rising`; at the end,
        whether outgoing weights are of `both_signs`), the `choice` and the `variance` of the true
        function.
    """
    task = task_of(seed, settings)
    paths = {name: grow(arm, task, settings, tick) for name, arm in ARMS.items()}
    return {
        "seed": seed,
        "variance": float(task.y.var(correction=0)),
        "arms": {name: _of_path(path) for name, path in paths.items()},
        "choice": choice(paths["m2"].stages[WIDTH], task, settings, tick),
    }


def _of_path(path: Path) -> Result:
    return {
        "mse": path.phases[-1],
        "phases": path.phases,
        "widths": path.widths,
        "curve": [float(f"{loss:.4g}") for loss in path.curve],
        "differs": path.differs,
        "negative": path.negative,
        "rising": path.rising,
        "both_signs": both_signs(path.net),
    }


def choice(stage: dict[str, Tensor], task: Task, settings: Settings, tick: Tick) -> Result:
    """The results of S2D and signed binary splitting on one network after a phase of training.

    Args:
        stage: the network's parameters.
        task: the fitting task.
        settings: of the command.
        tick: called with the iterations done since the last call.

    Returns:
        `low` and `high`, the eigenvalues of each neuron, and its `center` -θ₂ / θ₁; the curves
        `x`, `truth` and `before`; for `s2d` and `m2` the `channel` it splits, its `curve` and `mse`
        after the training.
    """
    net = restored(stage)
    graph = ramify.trace(net, task.x)
    low, high = ends(graph, task)
    centers = -net.hidden.bias.detach() / net.hidden.weight.detach()[:, 0]
    found: Result = {
        "low": low.tolist(),
        "high": high.tolist(),
        "center": centers.tolist(),
        "x": line(task.reach)[:, 0].tolist(),
        "truth": _values(task.truth, task),
        "before": _values(net, task),
    }
    for name in ("s2d", "m2"):
        split = propose(graph, task, ARMS[name], settings.step)[0].edit
        assert isinstance(split, ramify.Split)
        other = after_split(net, task, split)
        fit(other, task, optimizer_of(other), settings.iterations, tick)
        found[name] = {
            "channel": split.channel,
            "negative": min(split.weights) < 0,
            "mse": mse(other, task),
            "curve": _values(other, task),
        }
    return found


def _values(net: torch.nn.Module, task: Task) -> list[float]:
    with torch.no_grad():
        return net(line(task.reach))[:, 0].tolist()
