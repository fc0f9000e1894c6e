"""One process at a time in a run folder."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from ramify.commands import run_lock
from ramify.commands.run_folder import RunFolder
from ramify.commands.run_lock import LOCK, locked
from ramify.errors import RamifyError


def holder(folder: Path) -> int:
    """A process that holds the lock until it is killed."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        with locked(folder):
            os.write(writing, b"1")
            signal.pause()
    os.read(reading, 1)
    return process


def end(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_the_second_process_is_told_who_is_there(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        words = rf"in use by process {process} on .*: wait until it has ended, or begin a run in"
        with pytest.raises(RamifyError, match=words), locked(tmp_path):
            pass
        with pytest.raises(RamifyError, match=words):
            RunFolder.create(tmp_path, {"seed": 0})
    finally:
        end(process)


def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    end(holder(tmp_path))
    assert os.listdir(tmp_path) == [LOCK]
    with locked(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / LOCK).read_text()
    assert os.listdir(tmp_path) == []
    end(holder(tmp_path))
    RunFolder.create(tmp_path, {"seed": 0})


def test_one_process_does_not_hold_it_twice(tmp_path: Path) -> None:
    words = f"process {os.getpid()}"
    with locked(tmp_path), pytest.raises(RamifyError, match=words), locked(tmp_path):
        pass


def test_a_lock_that_was_taken_away_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, path, left = fcntl.flock, tmp_path / LOCK, [2]

    def flock(descriptor: int, operation: int) -> None:
        original(descriptor, operation)
        left[0] -= 1
        if left[0] >= 0:
            path.unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path):
        assert path.exists()
    assert left == [-1]


def test_where_there_are_no_locks_a_warning_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    words = "cannot be locked .No locks available.: see to it"
    with pytest.warns(UserWarning, match=words), locked(tmp_path):
        pass
    monkeypatch.setattr(run_lock, "HAS_LOCKS", False)
    with pytest.warns(UserWarning, match="this system has no flock"), locked(tmp_path):
        pass


def test_a_folder_that_is_gone_is_let_go_of(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK).unlink()
        tmp_path.rmdir()
    tmp_path.mkdir()


def test_a_lock_that_leads_to_another_file_leaves_that_file_as_it_is(tmp_path: Path) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "run"
    folder.mkdir()
    for make in (os.symlink, os.link):
        precious.write_text("what is in it\n")
        make(precious, folder / LOCK)
        with pytest.raises(RamifyError, match="lock .*move it away"), locked(folder):
            pass
        assert precious.read_text() == "what is in it\n"
        (folder / LOCK).unlink()
    os.mkfifo(folder / LOCK)
    with (
        pytest.raises(RamifyError, match="is a link or shared with another"),
        locked(folder),
    ):
        pass
