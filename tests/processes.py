"""Processes that a test starts beside its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

import torch


def clean_processes() -> ForkServerContext:
    """Start processes that are forked from one which has imported ramify and has no threads.

    A fork of pytest's own process copies every lock that one of its threads holds at that moment,
    and nobody in the copy ever lets go of it. A new interpreter for each would import for seconds.

    Returns:
        The context; its `Process` takes what can be pickled.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ramify.cli.runs"])
    return context


def on_each_rank(work: Callable[..., None], *arguments: Any, ranks: int = 2) -> None:
    """Call `work(rank, *arguments)` in a process for each rank, and wait for all of them.

    Args:
        work: a function that can be pickled; a failure in one process ends the test with its text.
        arguments: what it gets besides its rank.
        ranks: how many processes.
    """
    clean_processes()  # before the first is started
    torch.multiprocessing.start_processes(
        _of_one_thread, (work, arguments), nprocs=ranks, start_method="forkserver"
    )


def _of_one_thread(rank: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    work(rank, *arguments)
