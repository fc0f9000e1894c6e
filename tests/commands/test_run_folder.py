"""Run folders: what they refuse, what they keep, and what they say of damage."""

import json
from pathlib import Path

import pytest

from ramify.commands.run_folder import RunFolder
from ramify.errors import RamifyError

CONFIG = {"data": "digits", "lr": 0.1, "most": None}


def make(path: Path) -> RunFolder:
    return RunFolder.create(path / "run", CONFIG)


def test_a_new_folder_knows_its_settings_and_software(tmp_path: Path) -> None:
    make(tmp_path)
    folder = RunFolder.open(tmp_path / "run")
    assert folder.config() == CONFIG
    versions = json.loads((folder.path / "versions.json").read_text())
    assert {"ramify", "torch", "python", "system"} == set(versions)
    assert str(tmp_path) not in json.dumps(versions)


def test_an_empty_folder_will_do_and_another_run_will_not(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    folder = make(tmp_path)
    with pytest.raises(RamifyError, match=r"run already holds a run; .* --resume .*run"):
        make(tmp_path)
    assert folder.config() == CONFIG


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_run_is_not_written_to(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "folder":
        path.mkdir()
        path = path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(
        RamifyError, match="run already holds something; give another folder by --out"
    ):
        make(tmp_path)
    assert path.read_text() == "mine"


def test_the_first_setting_that_differs_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path)
    folder.check({"data": "digits", "most": None})
    with pytest.raises(RamifyError, match=r"begun with lr = 0.1, not 0.2; resume without"):
        folder.check({"data": "digits", "lr": 0.2, "most": 4})


@pytest.mark.parametrize("exists", [True, False])
def test_what_is_no_run_folder_is_not_resumed(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "run"
    if exists:
        path.mkdir()
    seen = "it has no config.json" if exists else "it does not exist"
    with pytest.raises(RamifyError, match=rf"run is not a run folder: {seen}; .* without --resume"):
        RunFolder.open(path)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_damaged_settings_are_named(tmp_path: Path, text: str) -> None:
    folder = make(tmp_path)
    (folder.path / "config.json").write_text(text)
    with pytest.raises(RamifyError, match=r"config.json .*; restore it from a copy, or begin"):
        folder.config()


def test_events_come_back_in_order_and_exactly(tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert folder.events() == []
    events = [{"event": "epoch", "job": "grown-0", "loss": 0.1 + i / 3} for i in range(3)]
    for event in events:
        folder.append(event)
    assert folder.events() == events
    folder.rewrite(events[:1])
    folder.append(events[2])
    assert folder.events() == [events[0], events[2]]


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path)
    folder.append({"event": "epoch", "job": "grown-0"})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epo')
    assert folder.events() == [{"event": "epoch", "job": "grown-0"}]


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"event": "epoch"}'])
def test_a_damaged_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    folder = make(tmp_path)
    good = '{"event": "epoch", "job": "grown-0"}'
    (folder.path / "metrics.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(RamifyError, match=r"metrics.jsonl is damaged at line 2; restore it, or"):
        folder.events()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RamifyError, match="file/run cannot be written .* another folder by --out"):
        RunFolder.create(tmp_path / "file" / "run", {})
