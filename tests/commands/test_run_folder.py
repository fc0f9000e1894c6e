"""Run folders: what they refuse, what they keep, and what they say of damage."""

import importlib
import json
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ramify.commands.run_folder import RunFolder
from ramify.commands.run_sources import changes, sources_of
from ramify.data import Dataset
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
    with pytest.raises(RamifyError, match=r"started with lr = 0.1, not 0.2; resume without"):
        folder.check({"data": "digits", "lr": 0.2, "most": 4})


@pytest.mark.parametrize("exists", [True, False])
def test_what_is_no_run_folder_is_not_resumed(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "run"
    if exists:
        path.mkdir()
    seen = "it has no config.json" if exists else "it does not exist"
    with pytest.raises(RamifyError, match=rf"run is not a run folder: {seen}; .* without --resume"):
        RunFolder.open(path)


def test_a_folder_of_runs_names_one_of_them(tmp_path: Path) -> None:
    run = make(tmp_path).path
    with pytest.raises(
        RamifyError, match=rf"is not a run folder but contains some, .* such as {run}, or"
    ):
        RunFolder.open(run.parent)


@pytest.mark.parametrize("data", ["flowers", "houses.csv", "houses.csv:price"])
def test_data_that_are_not_here_are_named_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    """The path of the data is relative to the directory in which the run was begun."""
    begun, other = tmp_path / "begun", tmp_path / "other"
    begun.mkdir()
    other.mkdir()
    (begun / data.partition(":")[0]).touch()
    RunFolder.create(begun / "run", {"data": data})
    monkeypatch.chdir(begun)
    RunFolder.open(Path("run")).refuse_foreign(["data"], {})
    monkeypatch.chdir(other)
    folder = RunFolder.open(Path("../begun/run"))
    said = f"../begun/run is a run on the data {data}, and there is no such .* here: run the"
    with pytest.raises(RamifyError, match=said):
        folder.refuse_foreign(["data"], {})
    folder.refuse_foreign(["data"], {"data": data})  # named again: loading it says what is wrong
    folder.refuse_foreign(["model"], {})


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
    with pytest.raises(RamifyError, match="file/run cannot be written, since a file stands where"):
        RunFolder.create(tmp_path / "file" / "run", {})


def test_a_folder_whose_run_a_kill_kept_from_beginning_is_begun_again(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    left = ("lock", "versions.json", "sources.json", "shape.json", "shape-1.json")
    for name in (*left, ".ramify-1-abcd.tmp"):
        (path / name).write_text("half")
    folder = RunFolder.create(path, CONFIG, {"sources.json": {"data": "1"}})
    assert json.loads((path / "sources.json").read_text()) == {"data": "1"}
    assert folder.config() == CONFIG


@pytest.mark.parametrize("number", range(4))
def test_the_settings_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A kill at any file leaves a folder without config.json, or a whole one."""
    moved: list[str] = []

    def replace(source: Path, target: Path) -> None:
        if len(moved) == number:
            raise KeyboardInterrupt
        source.rename(target)
        moved.append(target.name)

    monkeypatch.setattr("ramify.store.disk.os.replace", replace)
    beside = {"sources.json": {}, "shape.json": {}}
    with pytest.raises(KeyboardInterrupt):
        RunFolder.create(tmp_path / "run", CONFIG, beside)
    assert not (tmp_path / "run" / "config.json").exists()
    monkeypatch.undo()
    assert RunFolder.create(tmp_path / "run", CONFIG, beside).config() == CONFIG


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    folder = make(tmp_path)
    shutil.rmtree(folder.path)
    with pytest.raises(RamifyError, match=r"run was deleted, with its config.json: begin a new"):
        folder.append({"event": "epoch", "job": "grown-0"})
    with pytest.raises(RamifyError, match="its folder is not there"):
        folder.rewrite([])
    assert not folder.path.exists()


# ------------------------------------------------------------------------ what has changed


@dataclass(frozen=True)
class Chosen:
    """Stands for settings."""

    data: str = "digits"
    model: str = "made_up_model:Net"

    def to_json(self) -> dict[str, Any]:
        return CONFIG | {"seeds": 1}


def begun(path: Path, dataset: Dataset) -> RunFolder:
    (path / "made_up_model.py").write_text("Net = 1")
    importlib.import_module("made_up_model")
    return RunFolder.create(path / "run", CONFIG, {"sources.json": sources_of(Chosen(), dataset)})


@pytest.fixture
def imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("made_up_model", None)


@pytest.mark.usefixtures("imports")
def test_changed_software_and_code_are_told(tmp_path: Path, dataset: Dataset) -> None:
    folder = begun(tmp_path, dataset)
    assert list(changes(folder, Chosen(), dataset)) == []
    (tmp_path / "made_up_model.py").write_text("Net = 2")
    (folder.path / "versions.json").write_text('{"torch": "0.1", "python": "1"}')
    said = list(changes(folder, Chosen(), dataset))
    assert [sentence.split(":")[0] for sentence in said] == [
        f"the run was started with torch 0.1, and this is {torch.__version__}",
        f"the run was started with python 1, and this is {platform.python_version()}",
        "the code of the model made_up_model",
    ]


@pytest.mark.usefixtures("imports")
def test_changed_settings_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    folder = begun(tmp_path, dataset)
    file = folder.path / "config.json"
    file.write_text(json.dumps(CONFIG | {"seeds": 9}))
    assert list(changes(folder, Chosen(), dataset)) == []
    file.write_text(json.dumps(CONFIG | {"lr": 0.5}))
    words = r"config.json has lr = 0.5, and the run was started with 0.1: write that there again"
    with pytest.raises(RamifyError, match=words):
        list(changes(folder, Chosen(), dataset))


@pytest.mark.usefixtures("imports")
def test_changed_data_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    folder = begun(tmp_path, dataset)
    labels = dataset.y_test.clone()
    labels[0] = 1 - labels[0]
    for other in (replace(dataset, y_test=labels), replace(dataset, augment=True)):
        with pytest.raises(RamifyError, match=r"digits is not the one .*was started .*delete"):
            list(changes(folder, Chosen(), other))
    (folder.path / "sources.json").unlink()
    assert list(changes(folder, Chosen(), replace(dataset, y_test=labels))) == []
