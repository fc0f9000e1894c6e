"""Run seeds in worker processes, with a display of the remaining time."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.s2d.rbf.training import Tick

Result = dict[str, Any]
POLL = 0.2  # seconds


class OfSeed(Protocol):
    """The work for one seed; its result can be written as JSON."""

    def __call__(self, seed: int, *, tick: Tick) -> Result:
        """The result of one seed; `tick` called with the iterations done since the last call."""
        ...


def _work(seed: int, of_seed: OfSeed, ticks: queue.Queue[int]) -> Result:
    torch.set_num_threads(1)
    command = multiprocessing.parent_process()

    def tick(iterations: int) -> None:
        if command is not None and not command.is_alive():
            raise SystemExit("the command has ended")  # or a killed command leaves busy workers
        ticks.put(iterations)

    return of_seed(seed, tick=tick)


def run(
    seeds: Sequence[int],
    of_seed: OfSeed,
    iterations: int,
    jobs: int,
    console: Console,
    keep: Callable[[Result], None],
) -> None:
    """Run all seeds, `jobs` at a time, in worker processes with one thread each.

    Args:
        seeds: the seeds, with one result each.
        of_seed: the work for one seed; a module-level function, or a `partial` of one.
        iterations: of one seed, as counted by `tick`.
        jobs: worker processes.
        console: shows the progress.
        keep: called with the result of each finished seed.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, _bar(console) as progress:
        ticks = manager.Queue()
        bar = progress.add_task("training", total=iterations * len(seeds))
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            futures = [pool.submit(_work, seed, of_seed, ticks) for seed in seeds]
            try:
                _watch(futures, ticks, progress, bar, keep)
            except BaseException:
                pool.shutdown(cancel_futures=True, wait=False)
                raise


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
    futures: Sequence[Future[Result]],
    ticks: queue.Queue[int],
    progress: Progress,
    bar: Any,
    keep: Callable[[Result], None],
) -> None:
    """Update the bar until all seeds are done and saved; a failed seed ends the wait."""
    waiting = list(futures)
    while waiting:
        while not ticks.empty():
            progress.advance(bar, ticks.get())
        for future in [future for future in waiting if future.done()]:
            keep(future.result())
            waiting.remove(future)
        done = len(futures) - len(waiting)
        progress.update(bar, description=f"{done} of {len(futures)} seeds done")
        time.sleep(POLL if waiting else 0)
    progress.update(bar, completed=progress.tasks[0].total, description="all seeds done")
