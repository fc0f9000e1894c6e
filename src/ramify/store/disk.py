"""Writing to the disk: files whole or not at all, and what the disk refuses in one sentence.

Every file that Ramify writes goes through here. A file is written under a temporary name of its
own, flushed to the disk and moved into place, so that whatever happens leaves the old file or the
new one.
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

PREFIX, SUFFIX = ".ramify-", ".tmp"  # of temporary names, with the number of the process between
CODE = re.compile(r"(?:os error|code:) (\d+)")  # how safetensors names the error of the system
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
    """Turn what the disk refuses inside the block into one sentence.

    Args:
        path: What is written there.

    Yields:
        Nothing.

    Raises:
        RamifyError: Says why the file could not be written, and what to do.

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
    """The number of an error of the system; 0 where there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = CODE.search(str(error))
    return int(found.group(1)) if found else 0


def make_folder(path: Path) -> None:
    """Make a folder with those above it, unless it is there; errors as :func:`write_all`."""
    with refusals_named(path):
        path.mkdir(parents=True, exist_ok=True)


def write_all(writers: Mapping[Path, Callable[[str], Any]]) -> None:
    """Write files: each is whole on the disk before the first of them is moved into place.

    Args:
        writers: For each file, in a folder that is there, what writes it under a temporary name.

    Raises:
        RamifyError: The disk refuses one of them; all are then as they were.
    """
    written: dict[Path, Path] = {}
    try:
        for path, write in writers.items():
            with refusals_named(path):
                temporary = _temporary(path.parent)
                temporary.touch(exist_ok=False)
                written[temporary] = path
                mode = temporary.stat().st_mode  # safetensors leaves files for their owner alone
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
    """Add to the end of a file: all of it, or nothing where the disk refuses some; errors too."""
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
        folder: Where they are.
        alone: Whether this process holds the lock of the folder: those of safetensors, which name
            no process, go then too.
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
    """Whether a file of this name is one that a kill left half written."""
    return name.startswith(PREFIX) and name.endswith(SUFFIX)


def is_running(process: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _temporary(folder: Path) -> Path:
    return folder / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
