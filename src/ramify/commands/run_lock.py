"""One process at a time in a run folder, by a lock that is released when a process ends."""

from __future__ import annotations

import importlib.util
import os
import platform
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ramify.errors import RamifyError
from ramify.store.disk import refusals_named

LOCK = "lock"
"""The file in a run folder that names the process working there, which locks it."""
HAS_LOCKS = importlib.util.find_spec("fcntl") is not None  # not available on Windows


class InUse(RamifyError):
    """Another process works in a run folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder during the ``with`` block.

    Args:
        folder: The run folder, which must exist.

    Yields:
        Nothing. If the file system has no locks, the block runs with a warning.

    Raises:
        InUse: Another process holds the lock; the message names it.
    """
    descriptor = _taken(folder / LOCK)
    try:
        yield
    finally:
        if descriptor is not None:
            with suppress(OSError):  # the folder is gone or no longer writable
                (folder / LOCK).unlink()
            os.close(descriptor)


def _taken(path: Path) -> int | None:
    """The descriptor of the locked file; None if there are no locks."""
    if not HAS_LOCKS:
        _warn(path, "this system has no flock")
        return None
    import fcntl

    while True:
        with refusals_named(path):  # a link may lead to a file outside this folder
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        _check_own(path, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise InUse(
                f"{path.parent} is in use by {holder or 'another process'}: wait until it has "
                "ended, or begin a run in another folder by --out."
            ) from None
        except OSError as error:  # for example on a network file system
            os.close(descriptor)
            _warn(path, error.strerror or "no reason is given")
            return None
        if _is_at(path, descriptor):
            with refusals_named(path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # the previous holder has deleted the file meanwhile


def _check_own(path: Path, descriptor: int) -> None:
    """Raise an error if an open file is not a plain file or has other links."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise RamifyError(
            f"{path} is a link or shared with another folder, so it is not written: move it away."
        )


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _warn(path: Path, why: str) -> None:
    warnings.warn(
        f"{path.parent} cannot be locked ({why}): see to it that no other process uses it",
        stacklevel=4,
    )
