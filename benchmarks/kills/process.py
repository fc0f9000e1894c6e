"""One command in a separate process, which is killed at a file operation or at a time."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What Python says of before it is done; libraries in other languages are killed by the clock.
OPERATIONS = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.truncate",
    "os.chmod",
    "fcntl.flock",
    "shutil.rmtree",
}
LONGEST = 3600.0  # time limit of a command, in seconds


@dataclass(frozen=True)
class Kill:
    """When a process is killed.

    Attributes:
        operation: The number of the file operation before which it is killed; None for none.
        seconds: The time after which it is killed; None for never.
    """

    operation: int | None = None
    seconds: float | None = None


NEVER = Kill()


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; negative for a signal.
        text: What it printed.
        operations: Its file operations in the folder.
        seconds: How long it took.
    """

    code: int
    text: str
    operations: int
    seconds: float


class Started:
    """The process of a command, started by a fork so that all modules are loaded."""

    def __init__(self, arguments: Sequence[str], folder: Path, kill: Kill) -> None:
        self.kill, self.began = kill, time.monotonic()
        self.notes = folder.parent / f"notes-{folder.name}-{time.monotonic_ns()}"
        self.process = os.fork()
        if self.process == 0:
            _work(arguments, folder, self.notes, kill)
        self.done: int | None = None

    def ended(self) -> Ended:
        """Wait for its end, and kill it after the given time."""
        last = self.began + (LONGEST if self.kill.seconds is None else self.kill.seconds)
        while self.done is None:
            found, status = os.waitpid(self.process, os.WNOHANG)
            if found:
                self.done = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > last:
                os.kill(self.process, signal.SIGKILL)
                self.done = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
            else:
                time.sleep(0.002)
        seconds = time.monotonic() - self.began
        text = self.notes.read_text(errors="replace") if self.notes.exists() else ""
        count = Path(f"{self.notes}-count")
        operations = int(count.read_text()) if count.exists() else 0
        for path in (self.notes, count):
            path.unlink(missing_ok=True)
        return Ended(self.done, text, operations, seconds)


def _work(arguments: Sequence[str], folder: Path, notes: Path, kill: Kill) -> None:
    """The work of the forked process; does not return."""
    from ramify.cli import app

    code, count = 70, [0]
    try:
        descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        sys.addaudithook(_hook(folder, kill, count))
        try:
            app(list(arguments), standalone_mode=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
        Path(f"{notes}-count").write_text(str(count[0]))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _hook(folder: Path, kill: Kill, count: list[int]) -> Callable[[str, tuple[Any, ...]], None]:
    """Counts operations, and kills this process before one of them."""
    named = (f"{folder}/", str(folder))

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS:
            return
        inside = any(str(one).startswith(named) for one in arguments)
        if inside or event == "fcntl.flock":
            count[0] += 1
            if count[0] == kill.operation:
                os.kill(os.getpid(), signal.SIGKILL)

    return seen
