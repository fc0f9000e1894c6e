"""A process for each examination, with a limit on its time and memory."""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.zoo import peer
from benchmarks.zoo.entries import entries
from benchmarks.zoo.examine import Row, examine

CONTEXT = multiprocessing.get_context("forkserver")
WARM = "benchmarks.zoo.warm"
"""What the server imports before it forks: each process starts with everything loaded."""


def work(name: str, task: str, seconds: float, memory: int, pipe: Connection) -> None:
    """What a process does: one task on one model, its findings sent as they come."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what torch says of an export that fails is not for the table
        os.dup2(silence, stream)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
    entry = next(entry for entry in entries() if entry.name == name)

    def report(row: Row) -> None:
        pipe.send({**row, "peak_mb": peak()})

    try:
        if task == "peer":
            row = peer.prune(entry, report)
        else:
            row = examine(entry, report, onnx=task == "onnx")
    except Exception as error:  # of the model itself, or of a trace
        row = {"status": "error", "why": f"{type(error).__name__}: {error}"[:300]}
    report({**row, "done": True})


def peak() -> int:
    """The most megabytes that this process has held; Linux says it of the process alone."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def run(name: str, task: str, seconds: float, memory: int) -> Row:
    """One task on one model in a process of its own.

    Args:
        name: of the entry.
        task: `ramify`, `onnx` (the same with an ONNX export) or `peer`.
        seconds: of the processor, after which the process is ended, so that a busy machine does
            not count; ten times as much by the clock.
        memory: the most bytes that it may hold.

    Returns:
        The last row that it sent; `status` and `why` say where it did not come to an end.
    """
    CONTEXT.set_forkserver_preload([WARM])
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=work, args=(name, task, seconds, memory, sender))
    process.start()
    sender.close()
    row: dict[str, Any] = {}
    until = time.monotonic() + 10 * seconds
    try:
        while not row.get("done") and receiver.poll(max(0.0, until - time.monotonic())):
            row = {**row, **receiver.recv()}
    except EOFError:
        process.join()
    if not row.get("done") and "status" not in row:
        over = process.exitcode in (None, -signal.SIGXCPU, -signal.SIGKILL)
        stage = row.get("stage", "building it")
        why = f"over {seconds:g} s" if over else f"its process ended by itself ({process.exitcode})"
        row.update(status="time-out" if over else "error", why=f"{why}, at: {stage}")
    process.kill()
    process.join()
    receiver.close()
    row.pop("done", None)
    return row
