"""The mixed-integer solver of scipy, without the lines of debugging that it prints."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import scipy  # its submodules are imported on use

DEBUGGING = b"HighsMipSolverData::"
"""How the lines begin that HiGHS 1.12 prints on standard output whatever its settings."""

_ONE = threading.Lock()  # another thread would restore what this one has put in its place


def milp(*arguments: Any, **named: Any) -> Any:
    """Run `scipy.optimize.milp`, without its lines of debugging on standard output."""
    with _ONE, _filtered(DEBUGGING):
        return scipy.optimize.milp(*arguments, **named)


@contextmanager
def _filtered(start: bytes) -> Iterator[None]:
    """Hold standard output back, also of C, and print it afterwards without some lines.

    Args:
        start: how the lines to leave out begin.
    """
    try:
        before = os.dup(1)
    except OSError:  # there is no standard output
        yield
        return
    with open(before, "wb") as out, tempfile.TemporaryFile() as held:
        _flush()
        os.dup2(held.fileno(), 1)
        try:
            yield
        finally:
            _flush()
            os.dup2(out.fileno(), 1)
            held.seek(0)
            out.writelines(line for line in held if not line.startswith(start))


def _flush() -> None:
    """Empty the buffers of C, whose contents would otherwise be printed later."""
    with suppress(OSError, AttributeError, TypeError):  # where C cannot be called without a name
        ctypes.CDLL(None).fflush(None)
