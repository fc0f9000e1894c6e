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
"""The module that the server imports before it forks, so that processes start with it loaded."""


def work(name: str, task: str, seconds: float, memory: int, pipe: Connection) -> None:
    """The work of a process: one task on one model, with results sent as they become known."""
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # torch's messages about failed exports do not belong in the table
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
    except Exception as error:  # from the model itself, or from tracing
        row = {"status": "error", "why": f"{type(error).__name__}: {error}"[:300]}
    report({**row, "done": True})


def peak() -> int:
    """The peak memory of this process in megabytes, as reported by Linux."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def run(name: str, task: str, seconds: float, memory: int) -> Row:
    """Run one task on one model in a separate process.

    Args:
        name: the name of the entry.
        task: `ramify`, `onnx` (the same with an ONNX export) or `peer`.
        seconds: the limit of CPU time, which does not depend on the load of the machine; the limit
            of wall time is ten times as much.
        memory: the memory limit in bytes.

    Returns:
        The last row that it sent; `status` and `why` tell if it did not finish.
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
