"""What the disk refuses: one sentence, and what was there before is whole."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import ramify
from ramify.errors import RamifyError
from ramify.store.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ramify.store.disk import append, make_folder, sweep, write_all
from ramify.store.files import append_line, bytes_writer, write_bytes, write_with


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write files of more bytes, as it refuses on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full: make room"),
        (errno.EDQUOT, "the disk is full: make room"),
        (errno.EROFS, "the disk is read-only: give another place"),
        (errno.EACCES, "it may not be written there"),
        (errno.EIO, "Input/output error: mend that"),
    ],
)
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_each_refusal_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str, call: str
) -> None:
    write_bytes(tmp_path / "a", b"old")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"ramify.store.disk.os.{call}", refuse)
    with pytest.raises(RamifyError, match=f"a cannot be written, since {words}"):
        write_bytes(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def folder_in_place(path: Path) -> Path:
    (path / "a").mkdir()
    return path / "a"


def file_above(path: Path) -> Path:
    (path / "a").touch()
    return path / "a" / "b"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (folder_in_place, "a folder stands where a file is wanted"),
        (file_above, "a file stands where a folder is wanted"),
        (lambda path: path / ("a" * 300), "the name is too long: give a shorter one"),
        (lambda path: path / "gone" / "a", "its folder is not there"),
    ],
)
def test_a_place_that_will_not_do_is_named(
    tmp_path: Path, place: Callable[[Path], Path], words: str
) -> None:
    path = place(tmp_path)
    with pytest.raises(RamifyError, match=words):
        write_bytes(path, b"1")
    if "gone" not in str(path):
        with pytest.raises(RamifyError, match=words):
            append(path, b"1")
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_a_folder_is_not_made_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(RamifyError, match="a file stands where a folder is wanted"):
            make_folder(path)
    make_folder(tmp_path / "b" / "c")
    make_folder(tmp_path / "b" / "c")


def test_all_files_are_whole_before_one_is_moved(tmp_path: Path) -> None:
    write_all({tmp_path / name: bytes_writer(b"old") for name in "ab"})
    news = {tmp_path / "a": bytes_writer(b"new"), tmp_path / "b": bytes_writer(b"new" * 1000)}
    with pytest.raises(RamifyError, match="b cannot be written, s.* larger"), files_of_at_most(999):
        write_all(news)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == {
        "a": b"old",
        "b": b"old",
    }


def test_an_error_of_the_writer_is_its_own(tmp_path: Path) -> None:
    def stop(name: str) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_with(tmp_path / "a", stop)
    assert os.listdir(tmp_path) == []


def test_a_line_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, {"a": 1})
    with pytest.raises(RamifyError, match="lines cannot be written"), files_of_at_most(1000):
        append_line(path, {"b": "x" * 5000})
    append_line(path, {"c": 3})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}, {"c": 3}]


def test_a_network_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    old = nn.Linear(3, 2)
    ramify.save(old, tmp_path / "net")
    words = r"net.safetensors cannot be written, since it is larger"
    with pytest.raises(RamifyError, match=words), files_of_at_most(20_000):
        ramify.save(nn.Linear(100, 100), tmp_path / "net")
    back = ramify.load(tmp_path / "net", build=lambda: nn.Linear(1, 1))
    assert torch.equal(back.weight, old.weight)
    assert sorted(os.listdir(tmp_path)) == ["net.json", "net.safetensors"]


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    (tmp_path / f".ramify-{process}-abcd.tmp").touch()
    own = tmp_path / f".ramify-{os.getpid()}-abcd.tmp"
    for path in (own, tmp_path / ".ramify-mine.tmp", tmp_path / "kept"):
        path.touch()
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([own.name, ".ramify-mine.tmp", "kept"])


# ---------------------------------------------------------------------------- flipped bits


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("at", [-1, -9, -32])
def test_a_flipped_bit_of_the_weights_is_noticed(tmp_path: Path, at: int) -> None:
    path = ramify.save(nn.Linear(3, 2), tmp_path / "net")
    flip(path, at)
    words = r"net.safetensors holds other values for (weight|bias) than net.json"
    with pytest.raises(RamifyError, match=words):
        ramify.load(tmp_path / "net", build=lambda: nn.Linear(3, 2))


def test_a_recipe_without_checksums_loads(tmp_path: Path) -> None:
    path = ramify.save(nn.Linear(3, 2), tmp_path / "net")
    recipe = json.loads((tmp_path / "net.json").read_text())
    assert sorted(recipe["checksums"]) == ["bias", "weight"]
    del recipe["checksums"]  # as recipes were first written
    (tmp_path / "net.json").write_text(json.dumps(recipe))
    flip(path, -1)
    ramify.load(tmp_path / "net", build=lambda: nn.Linear(3, 2))


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    state = {"weights": torch.randn(3), "rate": 0.25}
    write_checkpoint(path, Checkpoint("training", state, [], [{"epoch": 3}]))
    whole, read = path.read_bytes(), []
    for at in range(len(whole)):
        flip(path, at)
        try:
            found = read_checkpoint(path, "training")
        except RamifyError:
            pass
        else:  # such as in what safetensors calls the checksums, or in a space of its padding
            read.append(at)
            assert torch.equal(found.state["weights"], state["weights"])
            assert (found.state["rate"], found.history) == (0.25, [{"epoch": 3}])
        path.write_bytes(whole)
    assert len(read) < 20


def test_what_safetensors_leaves_goes_where_nobody_else_works(tmp_path: Path) -> None:
    for name in (".tmpAb12Cd", ".tmp-mine", ".ramify-4000000-aa.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".tmpfolder").mkdir()
    (tmp_path / ".ramify-4000001-aa.tmp").mkdir()
    sweep(tmp_path)
    assert (tmp_path / ".tmpAb12Cd").exists()
    assert not (tmp_path / ".ramify-4000000-aa.tmp").exists()
    sweep(tmp_path, alone=True)
    left = [".ramify-4000001-aa.tmp", ".tmp-mine", ".tmpfolder"]
    assert sorted(os.listdir(tmp_path)) == left
