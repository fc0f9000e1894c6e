"""One seed after another, in worker processes, with the time left on show."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.s2d.rbf.arms import ARMS, NEURONS, Path, Settings, grow, scratch
from experiments.s2d.rbf.law import TOP, WIDTH, angles, blind_share, eigenvalues, restored
from experiments.s2d.rbf.task import DTYPE, REACH, Task, make_task
from experiments.s2d.rbf.training import Tick

Result = dict[str, Any]
POLL = 0.2  # seconds
GRID = 401  # points at which the curves are drawn


def total_iterations(settings: Settings) -> int:
    """Adam steps of one seed."""
    return settings.iterations * (len(ARMS) * NEURONS + TOP)


def run_seed(seed: int, settings: Settings, tick: Tick) -> Result:
    """All arms and measurements of one seed.

    Args:
        seed: of the true function, the points and every arm's draws.
        settings: of the command.
        tick: follows the iterations.

    Returns:
        What JSON can hold: `arms` (final `mse`, `curve`, `phases`, for S2D the split `indices`),
        `eigenvalues`, `angles`, the `fit` to draw, `variance` of the true function and the share
        of S2D's error that no neuron sees (`blind`).
    """
    task = make_task(seed)
    paths: dict[str, Path] = {}
    for arm in ARMS:
        paths[arm] = (
            scratch(task, settings, tick)
            if arm == "scratch"
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
    }


def _of_path(path: Path) -> Result:
    return {
        "mse": path.phases[-1],
        "phases": path.phases,
        "curve": [float(f"{loss:.4g}") for loss in path.curve],
        "indices": path.indices,
    }


def _drawn(path: Path, task: Task) -> Result:
    x = torch.linspace(-REACH, REACH, GRID, dtype=DTYPE).unsqueeze(1)
    with torch.no_grad():
        pairs = {"x": x, "truth": task.truth(x), "s2d": path.net(x)}
    return {name: values[:, 0].tolist() for name, values in pairs.items()}


def _work(seed: int, settings: Settings, ticks: queue.Queue[int]) -> Result:
    torch.set_num_threads(1)
    command = multiprocessing.parent_process()

    def tick(iterations: int) -> None:
        if command is not None and not command.is_alive():
            raise SystemExit("the command has ended")  # or a killed command leaves busy workers
        ticks.put(iterations)

    return run_seed(seed, settings, tick)


def run(seeds: Sequence[int], settings: Settings, jobs: int, console: Console) -> list[Result]:
    """All seeds, `jobs` at a time, in worker processes of one thread each.

    Args:
        seeds: one result each.
        settings: of the command.
        jobs: worker processes.
        console: shows the progress.

    Returns:
        The results in the order of the seeds.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, _bar(console) as progress:
        ticks = manager.Queue()
        bar = progress.add_task("training", total=total_iterations(settings) * len(seeds))
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            futures = [pool.submit(_work, seed, settings, ticks) for seed in seeds]
            try:
                _watch(futures, ticks, progress, bar)
            except BaseException:
                pool.shutdown(cancel_futures=True, wait=False)
                raise
        return [future.result() for future in futures]


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=120.0,
    )


def _watch(
    futures: Sequence[Future[Result]], ticks: queue.Queue[int], progress: Progress, bar: Any
) -> None:
    """Move the bar until all is done; a seed that fails ends the wait."""
    while not all(future.done() for future in futures):
        while not ticks.empty():
            progress.advance(bar, ticks.get())
        done = sum(future.done() for future in futures)
        progress.update(bar, description=f"{done} of {len(futures)} seeds done")
        for future in futures:
            if future.done():
                future.result()
        time.sleep(POLL)
    progress.update(bar, completed=progress.tasks[0].total, description="all seeds done")
