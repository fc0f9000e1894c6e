"""A command in several processes, as ``torchrun -m ramify ...`` starts them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist

from ramify import distributed
from ramify.errors import RamifyError


def processes() -> int:
    """How many processes torchrun started for this command: 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launcher() -> str:
    """What a command line begins with that starts as many processes as there are."""
    if processes() == 1:
        return "ramify"
    here = os.environ.get("LOCAL_WORLD_SIZE", str(processes()))
    return f"torchrun --nproc-per-node {here} -m ramify"


def whose() -> str:
    """What a sentence of this process begins with: its rank, where there are several."""
    return "" if processes() == 1 else f"rank {os.environ.get('RANK', '?')}: "


@contextmanager
def launched() -> Iterator[None]:
    """Let the processes that torchrun started work together during the block.

    Each trains on its own part of every batch, and the GPU of its number is its own, where there is
    one. Where one ends in an error, all end with its sentence. Without torchrun nothing changes.

    Yields:
        Nothing.

    Raises:
        RamifyError: This PyTorch cannot work in several processes.
    """
    if processes() == 1:
        yield
        return
    if not dist.is_available():
        raise RamifyError(
            f"torchrun started {processes()} processes, and this PyTorch has no torch.distributed: "
            "start the command without torchrun."
        )
    if gpus := torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    dist.init_process_group()
    # torchrun ends the other processes by this signal where one was killed.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with distributed.together():
            try:
                yield
            except BaseException:  # this process ends already, and says why
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                raise
    finally:
        signal.signal(signal.SIGTERM, before)
        with suppress(RuntimeError):  # of processes that are gone
            dist.destroy_process_group()


def check_launched(device: str, batch_size: int) -> None:
    """Make sure that each process has a device and a part of every batch.

    Args:
        device: The one that all of them were told.
        batch_size: Samples of a batch of all processes together.

    Raises:
        RamifyError: There are fewer GPUs than processes, or a part has fewer than two samples,
            which a batch norm cannot train on.
    """
    count = processes()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if count > 1 and torch.device(device).index is not None:
        raise RamifyError(
            f"torchrun started {count} processes, each of which has the GPU of its number, and "
            f"--device is {device}: give --device cuda."
        )
    if count > 1 and torch.device(device).type == "cuda" and here > torch.cuda.device_count():
        raise RamifyError(
            f"torchrun started {here} processes on this machine, which has "
            f"{torch.cuda.device_count()} GPUs: start as many as it has, or give --device cpu."
        )
    if count > 1 and batch_size < 2 * count:
        raise RamifyError(
            f"the batch size is {batch_size}, which {count} processes share: give --batch-size "
            f"{2 * count} or more, or start fewer processes."
        )


def refuse_launched(command: str) -> None:
    """Refuse several processes where a command takes one.

    Args:
        command: Such as ``"sweep"``.

    Raises:
        RamifyError: torchrun started several.
    """
    if processes() > 1:
        raise RamifyError(
            f"ramify {command} works in one process, and torchrun started {processes()}: start it "
            "without torchrun."
        )


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
