"""Atomic file writes, with one readable error if the disk refuses.

Every file that Ramify writes goes through here. It is written under a temporary name, flushed to
the disk and moved into place, so that after any failure either the old or the new file exists.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ramify.errors import RamifyError

PREFIX, SUFFIX = ".ramify-", ".tmp"  # of temporary names, with the process id in between
CODE = re.compile(r"(?:os error|code:) (\d+)")  # how safetensors reports a system error
FULL = ("the disk is full", "make room and go on; what was there before is whole")
FORBIDDEN = ("it may not be written there", "give another place, or allow it")
FILE = ("a file stands where a folder is wanted", "move it away, or give another place")
REASONS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: ("it is larger than this process may write", "raise the limit of ulimit -f"),
    errno.EROFS: ("the disk is read-only", "give another place"),
    errno.EACCES: FORBIDDEN,
    errno.EPERM: FORBIDDEN,
    errno.ENAMETOOLONG: ("the name is too long", "give a shorter one"),
    errno.ENOENT: ("its folder is not there", "restore the folder, or give another place"),
    errno.ENOTDIR: FILE,
    errno.EEXIST: FILE,
    errno.ELOOP: ("a link stands where a file is wanted", "move it away"),
    errno.EISDIR: ("a folder stands where a file is wanted", "move it away"),
}


@contextmanager
def refusals_named(path: Path) -> Iterator[None]:
    """Turn a system error while writing inside the block into one readable error.

    Args:
        path: The file that is written.

    Yields:
        Nothing.

    Raises:
        RamifyError: The file could not be written; the message says why and what to do.

    Example:
        >>> with refusals_named(Path("run/config.json")):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        ...
        ramify.errors.RamifyError: run/config.json cannot be written, since the disk is full: ...
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        why, what = REASONS.get(_number(error), (said, "mend that, or give another place"))
        raise RamifyError(f"{path} cannot be written, since {why}: {what}.") from error


def _number(error: Exception) -> int:
    """The errno of a system error; 0 if there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = CODE.search(str(error))
    return int(found.group(1)) if found else 0


def make_folder(path: Path) -> None:
    """Create a folder and its parents if missing; errors as in :func:`write_all`."""
    with refusals_named(path):
        path.mkdir(parents=True, exist_ok=True)


def write_all(writers: Mapping[Path, Callable[[str], Any]]) -> None:
    """Write files; all are completely on the disk before the first one is moved into place.

    Args:
        writers: For each file, in an existing folder, a function that writes it to a given name.

    Raises:
        RamifyError: One of them cannot be written; no file has changed then.
    """
    written: dict[Path, Path] = {}
    try:
        for path, write in writers.items():
            with refusals_named(path):
                temporary = _temporary(path.parent)
                temporary.touch(exist_ok=False)
                written[temporary] = path
                mode = temporary.stat().st_mode  # safetensors allows only the owner to read
                write(str(temporary))
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.chmod(mode)
        for temporary, path in written.items():
            with refusals_named(path):
                os.replace(temporary, path)
    finally:
        for temporary in written:
            temporary.unlink(missing_ok=True)


def append(path: Path, content: bytes) -> None:
    """Append to a file completely or, if the disk refuses, not at all; raises the same errors."""
    with refusals_named(path), path.open("ab", buffering=0) as file:
        before, done = file.tell(), 0
        try:
            while done < len(content):
                done += file.write(content[done:])
        except OSError:
            file.truncate(before)
            raise


def sweep(folder: Path, *, alone: bool = False) -> None:
    """Remove the temporary files that killed processes left in a folder.

    Args:
        folder: The folder.
        alone: Whether this process holds the lock of the folder; the files of safetensors, whose
            names have no process id, are then removed too.
    """
    if alone:
        for path in folder.glob(".tmp??????"):
            if path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)
    for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
        process = path.name.removeprefix(PREFIX).partition("-")[0]
        if process.isdecimal() and not path.is_dir() and not is_running(int(process)):
            path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Whether a name is that of a temporary file, which a killed process may leave behind."""
    return name.startswith(PREFIX) and name.endswith(SUFFIX)


def is_running(process: int) -> bool:
    """Whether a process with this id exists on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's process
        return True
    return True


def _temporary(folder: Path) -> Path:
    return folder / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
