"""Processes that a test starts beside its own."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


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
