"""All arms and measurements of one seed."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.s2d.rbf.arms import (
    ARMS,
    NEURONS,
    POSITIVE,
    Path,
    Settings,
    grow,
    scratch,
    task_of,
)
from experiments.s2d.rbf.law import (
    TOP,
    WIDTH,
    angles,
    blind_share,
    both_signs,
    eigenvalues,
    other_sign_share,
    restored,
)
from experiments.s2d.rbf.pool import Result
from experiments.s2d.rbf.task import DTYPE, Task
from experiments.s2d.rbf.training import Tick

GRID = 401  # points at which the curves are drawn


def total_iterations(settings: Settings) -> int:
    """Adam steps of one seed."""
    return settings.iterations * (len(ARMS) * NEURONS + TOP)


def run_seed(seed: int, settings: Settings, tick: Tick) -> Result:
    """All arms and measurements of one seed.

    Args:
        seed: of the true function, the points and every arm's draws.
        settings: of the command.
        tick: called with the iterations done since the last call.

    Returns:
        JSON-compatible values: `arms` (final `mse`, `curve`, `phases`, whether outgoing weights are
        of `both_signs`, for S2D the split `indices`), `eigenvalues`, `angles`, the `fit` to draw,
        `variance` of the true function and the shares of S2D's error at points that no neuron
        covers (`blind`) and where no outgoing weight has the true function's sign (`other_sign`).
    """
    task = task_of(seed, settings)
    paths: dict[str, Path] = {}
    for arm in ARMS:
        paths[arm] = (
            scratch(task, settings, tick, arm.endswith(POSITIVE))
            if arm.startswith("scratch")
            else grow(arm, task, settings, tick, keep=WIDTH if arm == "s2d" else 0)
        )
    steepest = paths["s2d"]
    seven = restored(steepest.stages[WIDTH])
    return {
        "seed": seed,
        "variance": float(task.y.var(correction=0)),
        "arms": {arm: _of_path(path) for arm, path in paths.items()},
        "eigenvalues": eigenvalues(seven, task, settings.step, settings.iterations, tick),
        "angles": angles(seven, task, settings.step),
        "fit": _drawn(steepest, task),
        "blind": blind_share(steepest.net, task),
        "other_sign": other_sign_share(steepest.net, task),
    }


def _of_path(path: Path) -> Result:
    return {
        "mse": path.phases[-1],
        "phases": path.phases,
        "curve": [float(f"{loss:.4g}") for loss in path.curve],
        "indices": path.indices,
        "both_signs": both_signs(path.net),
    }


def line(reach: float) -> Tensor:
    """The points in [-reach, reach] at which curves are drawn, (`GRID`, 1)."""
    return torch.linspace(-reach, reach, GRID, dtype=DTYPE).unsqueeze(1)


def _drawn(path: Path, task: Task) -> Result:
    x = line(task.reach)
    with torch.no_grad():
        pairs = {"x": x, "truth": task.truth(x), "s2d": path.net(x)}
    return {name: values[:, 0].tolist() for name, values in pairs.items()}
