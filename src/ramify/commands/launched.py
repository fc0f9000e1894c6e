"""Commands in several processes, started by ``torchrun -m ramify ...``."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import torch
import torch.distributed as dist

from ramify import distributed
from ramify.errors import RamifyError
from ramify.peers import leave_saying

OFTEN = 0.5  # seconds between checks that torchrun still runs
STUCK = 30.0  # seconds after which a process that does not respond ends, as torchrun would end it
SIGNALLED = (
    "stopped by SIGTERM, which torchrun sends when another process was killed or when it is "
    "stopped itself"
)
GONE = "torchrun has ended, so this process ends as well"


def processes() -> int:
    """The number of processes that torchrun started for this command, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launcher() -> str:
    """The beginning of a command line that starts as many processes."""
    if processes() == 1:
        return "ramify"
    here = os.environ.get("LOCAL_WORLD_SIZE", str(processes()))
    return f"torchrun --nproc-per-node {here} -m ramify"


def whose() -> str:
    """The prefix of messages from this process: its rank, if there are several."""
    return "" if processes() == 1 else f"rank {os.environ.get('RANK', '?')}: "


def _is_first_here() -> bool:
    """Whether this is the first of the processes that torchrun started on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def launched() -> Iterator[None]:
    """Let the processes that torchrun started work together during the ``with`` block.

    Each trains on its own part of every batch, on the GPU with its number if there is one. If one
    ends with an error, all end with its message. Without torchrun this has no effect.

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
    _check_torchrun()
    with _ended_by_torchrun():
        dist.init_process_group()
        try:
            with distributed.together():
                try:
                    yield
                except BaseException:  # this process is ending already, with its own message
                    for number in (signal.SIGTERM, signal.SIGINT):
                        signal.signal(number, signal.SIG_IGN)
                    raise
        finally:
            with suppress(RuntimeError):  # raised if other processes are gone
                dist.destroy_process_group()


def _check_torchrun() -> None:
    """Check that the processes can connect, because torch would wait for many minutes.

    Raises:
        RamifyError: Torchrun was killed while this process began.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # the store starts later
        return
    address = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0"))
    try:
        socket.create_connection(address, timeout=STUCK).close()
    except ConnectionRefusedError:
        gone = RamifyError(
            f"torchrun has ended: nothing answers at {address[0]}:{address[1]}, where its "
            "processes meet; start the command again."
        )
        if not _is_first_here():  # every process sees that
            leave_saying(gone)
        raise gone from None
    except OSError:  # torch may connect anyway, or explain the failure better
        return


@contextmanager
def _ended_by_torchrun() -> Iterator[None]:
    """End this process like Ctrl-C does, if torchrun requests it or is gone.

    If one process was killed, torchrun ends the others with a signal. If torchrun itself was
    killed, nothing ends them, so a thread checks whether it still runs.
    """
    parent, over, answered = os.getppid(), threading.Event(), threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        answered.set()
        raise KeyboardInterrupt(SIGNALLED if os.getppid() == parent else GONE)

    def watch() -> None:
        while not over.wait(OFTEN):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                if not answered.wait(STUCK) and not over.is_set():  # blocked outside of Python
                    print(f"error: {whose()}{GONE}.", file=sys.stderr, flush=True)
                    os._exit(1)
                return

    before = signal.signal(signal.SIGTERM, interrupt)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except BaseException as error:
        if os.getppid() != parent and not _is_first_here():  # every process sees that
            leave_saying(error)
        raise
    else:
        signal.signal(signal.SIGTERM, before)
    finally:
        over.set()


def check_launched(device: str, batch_size: int) -> None:
    """Check that each process has a device and a part of every batch.

    Args:
        device: The device option of the command.
        batch_size: Samples in a batch over all processes.

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
    """Refuse several processes for a command that runs in one.

    Args:
        command: Such as ``"sweep"``.

    Raises:
        RamifyError: torchrun started several processes.
    """
    if processes() > 1:
        with launched():
            raise RamifyError(
                f"ramify {command} works in one process, and torchrun started {processes()}: start "
                "it without torchrun."
            )
