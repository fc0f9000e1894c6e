"""``ramify sweep``: every trial a run folder, whoever makes it, and however it is interrupted."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from ramify.cli import app, runs
from ramify.commands.run_lock import locked
from ramify.data import Dataset, load
from ramify.errors import RamifyError
from ramify.report import write_comparison

optuna = pytest.importorskip("optuna", reason="needs the extra: pip install 'ramify[sweep]'")

from ramify.commands.sweep_study import Trials  # noqa: E402

SMALL = "--data digits --width 2 --epochs 1 --rounds 1 --batch-size 15 --probe-samples 20".split()
GRID = ["--vary", "method=random,new-neuron", "--vary", "lr=0.05,0.1"]
DRAWN = ["--vary", "method=random,new-neuron", "--vary", "lr=0.01..0.1:log", "--trials", "5"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pages: None) -> Path:
    """An empty folder, a small data set in the place of digits, and no pages of single runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ramify.cli.sweeps.write_comparison", _write_notes)
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(60) % 3
    images = torch.randn(60, 1, 8, 8, generator=generator) + labels[:, None, None, None]
    data = Dataset("d", images[:45], labels[:45], images[45:], labels[45:], ("a", "b", "c"))
    monkeypatch.setattr(
        "ramify.commands.jobs.load", lambda name: data if name == "digits" else load(name)
    )
    return tmp_path


def _write_notes(runs: list[Path], page: Path, notes: list[str]) -> None:
    """A page in no time: what stands above everything else."""
    page.write_text("\n".join(notes))


def sweep(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["sweep", "grow", *arguments])
    assert result.exit_code == code, result.output
    return result


def refused(*arguments: str, said: str) -> None:
    result = sweep(*arguments, code=2)
    assert re.search(rf"^error: .*{said}.*\n$", result.stderr, re.MULTILINE), result.stderr


def trials(folder: str) -> list[tuple[dict[str, Any], list[float] | None]]:
    """What the storage says of each trial that came to an end."""
    backend = optuna.storages.journal.JournalFileBackend(f"{folder}/trials.log")
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.load_study(study_name="ramify", storage=storage)
    return [(trial.params, trial.values) for trial in study.trials if trial.state.is_finished()]


def test_every_combination_once_and_more_trials_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ramify.cli.sweeps.write_comparison", write_comparison)
    said = sweep(*SMALL, *GRID, "--out", "s").output
    assert "4 of 4 trials finished" in said
    made = trials("s")
    assert [tuple(p.values()) for p, _ in made] == [
        (method, lr) for method in ("random", "new-neuron") for lr in ("0.05", "0.1")
    ]
    for number, (parameters, values) in enumerate(made, 1):
        run = Path(f"s/trial-{number:03d}")
        config = json.loads((run / "config.json").read_text())
        assert (config["method"], str(config["lr"])) == tuple(parameters.values())
        [row] = json.loads((run / "summary.json").read_text())["rows"]
        assert values == [row["test_accuracy"]["mean"], row["params"]["mean"]]
    assert "4 runs compared" in Path("s/compare.html").read_text()
    again = sweep("--resume", "s", "--trials", "2").output
    assert "4 of 4 trials finished" in again
    shown = re.findall(r"trial-\d+  (\S+) %  +([\d,]+)", again)
    best = [(float(one), int(two.replace(",", ""))) for one, two in shown]
    values = [(round(100 * v[0], 2), v[1]) for _, v in made if v]
    beaten = {v for v in values for w in values if w != v and w[0] >= v[0] and w[1] <= v[1]}
    assert sorted(best) == sorted(v for v in values if v not in beaten)
    sweep("--resume", "s", "--trials", "5")
    assert len(trials("s")) == 5
    assert "5 runs compared" in Path("s/compare.html").read_text()


def test_a_sweep_that_was_interrupted_comes_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(*SMALL, *DRAWN, "--out", "whole")
    with monkeypatch.context() as patched:
        calls = []

        def begin(*arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) == 3:
                raise KeyboardInterrupt("stopped; to continue: ramify grow --resume cut/trial-003")
            whole(*arguments)

        whole = runs.execute
        patched.setattr(runs, "execute", begin)
        said = sweep(*SMALL, *DRAWN, "--out", "cut", code=130).output
    assert said.count("to continue") == 1
    assert "to continue: ramify sweep grow --resume cut" in said
    assert Path("cut/compare.html").exists()
    assert len(trials("cut")) == 2
    refused("--resume", "cut", "--optimizer", "adam", said="with optimizer left open, not 'adam'")
    sweep("--resume", "cut", "--device", "cpu")  # as a run takes it, too
    assert trials("cut") == trials("whole")
    assert len(list(Path("cut").glob("trial-*/summary.json"))) == 5


def test_a_trial_that_was_stopped_before_its_page_has_one_after_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:

        def stop(run: Path) -> Path:
            raise KeyboardInterrupt("stopped")

        patched.setattr(runs, "write_report", stop)
        sweep(*SMALL, *GRID, "--out", "s", code=130)
    assert Path("s/trial-001/summary.json").exists()

    def write(run: Path) -> Path:
        (run / "report.html").write_text("a page")
        return run / "report.html"

    monkeypatch.setattr(runs, "write_report", write)
    sweep("--resume", "s")
    assert len(list(Path("s").glob("trial-*/report.html"))) == 4
    assert len(trials("s")) == 4


def test_a_process_that_found_all_trials_made_speaks_of_no_page() -> None:
    shared = [*SMALL, *GRID, "--trials", "1", "--storage", "../x.log"]
    assert "open here/compare.html" in sweep(*shared, "--out", "here").output
    said = sweep(*shared, "--out", "there").output
    assert "1 of 1 trials finished" in said
    assert "to view" not in said
    assert not Path("there/compare.html").exists()


def test_a_trial_that_fails_is_noted_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said = sweep(*SMALL, "--vary", "keep=1,gone=2", "--out", "s").output
    assert "2 of 2 trials finished, of which 1 failed" in said
    assert "trial-002 failed: " in Path("s/compare.html").read_text()
    refused(*SMALL, "--vary", "keep=gone=1,1", "--out", "t", said="gone")
    assert not Path("t").exists()

    def full(*arguments: Any) -> None:
        raise RamifyError("the disk is full.")

    monkeypatch.setattr(runs, "start", full)
    refused(
        *SMALL,
        *GRID,
        "--out",
        "t",
        said="no trial finished; .* was: the disk is full.",
    )


def test_two_processes_never_make_more_than_was_asked_for(folder: Path) -> None:
    several = [Trials.open(folder, "x.log", "s", 0, {"a": 1}, []) for _ in range(2)]
    asked = [several[turn % 2].ask(3, lambda trial: None) for turn in range(5)]
    assert [trial and trial.number for trial in asked] == [0, 1, 2, None, None]
    # One that was given up is made up for, one that failed is not.
    several[0].fail(0, "the disk is full")
    assert several[1].failures() == {0: "the disk is full"}
    several[0].study.tell(1, state=optuna.trial.TrialState.FAIL)
    again = several[1].ask(3, lambda trial: None)
    assert again is not None
    assert again.number == 3


def test_a_trial_of_a_process_that_is_gone_is_taken_over_or_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Trials.open(folder, "x.log", "s", 0, {}, [])
    (folder / "other").mkdir()
    elsewhere = Trials.open(folder / "other", "../x.log", "s", 0, {}, [])
    for _ in range(2):
        here.ask(9, lambda trial: None)
    elsewhere.ask(9, lambda trial: None)
    here.path(0).mkdir()
    assert [trial.number for trial in here.left_behind([])] == [0]
    monkeypatch.setattr("ramify.commands.sweep_study.GRACE", timedelta(0))
    assert [trial.number for trial in here.left_behind([])] == [0]
    assert [t.state.is_finished() for t in here.study.trials] == [False, True, False]


def test_a_combination_that_was_given_up_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [{"lr": "0.1"}, {"lr": "0.2"}]
    here = Trials.open(folder, "x.log", "s", 0, {}, every)
    here.ask(2, lambda trial: None)  # killed before it has a folder
    monkeypatch.setattr("ramify.commands.sweep_study.GRACE", timedelta(0))
    assert here.left_behind(["lr"]) == []
    for _ in range(2):
        here.ask(2, lambda trial: trial.suggest_categorical("lr", ["0.1", "0.2"]))
    assert [trial.params for trial in here.study.trials] == [{}, every[1], every[0]]
    assert here.ask(2, lambda trial: None) is None


def test_a_trial_in_use_is_left_to_its_process() -> None:
    sweep(*SMALL, *GRID, "--out", "s")
    study = Trials.open(Path("s"), "trials.log", "ramify", 0, _agreed("s"), [])
    trial = study.ask(
        9, lambda trial: trial.suggest_categorical("method", ["random", "new-neuron"])
    )
    assert trial is not None
    trial.suggest_categorical("lr", ["0.05", "0.1"])
    study.path(trial.number).mkdir()
    with locked(study.path(trial.number)):
        sweep("--resume", "s", "--trials", "5")
        assert len(trials("s")) == 4
    sweep("--resume", "s")
    assert len(trials("s")) == 5


def _agreed(folder: str) -> dict[str, Any]:
    stored = json.loads(Path(folder, "sweep.json").read_text())
    return {k: v for k, v in stored.items() if k not in ("trials", "storage", "study")}


def test_a_storage_that_a_file_names_elsewhere_is_not_opened(folder: Path) -> None:
    sweep(*SMALL, *GRID, "--trials", "1", "--out", "s")
    file = Path("s/sweep.json")
    kept = json.loads(file.read_text())
    for elsewhere in ("../x.log", f"sqlite:///{folder}/x.db"):
        file.write_text(json.dumps(kept | {"storage": elsewhere}))
        refused("--resume", "s", said="which is no file of that folder: give --storage .* too")
    file.write_text(json.dumps(kept))
    Path("s/trials.log").rename("x.log")
    Path("s/trials.log").symlink_to(folder / "x.log")
    refused("--resume", "s", said="which is no file of that folder")
    assert sorted(one.name for one in folder.glob("x.*")) == ["x.log"]
    sweep("--resume", "s", "--storage", "trials.log")


@pytest.mark.parametrize(
    "change",
    [
        {"trials": "x"},
        {"trials": float("nan")},
        {"vary": 5},
        {"vary": [5]},
        {"given": []},
        {"command": "fly"},
    ],
)
def test_a_file_of_a_sweep_with_wrong_types_is_named(change: dict[str, Any]) -> None:
    sweep(*SMALL, *GRID, "--trials", "1", "--out", "s")
    file = Path("s/sweep.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    refused("--resume", "s", said="s/sweep.json is damaged")


def test_a_run_of_other_settings_is_not_taken_for_a_trial() -> None:
    sweep(*SMALL, *GRID, "--trials", "2", "--out", "s")
    Path("s/trials.log").unlink()
    sweep("--resume", "s")  # the same combinations in the same order
    Path("s/trials.log").unlink()
    for name, other in (("trial-001", "kept"), ("trial-002", "trial-001"), ("kept", "trial-002")):
        Path("s", name).rename(Path("s", other))
    refused("--resume", "s", said="trial-001 holds a run with lr = 0.1, .* restore the storage")


def test_mistakes_are_said_in_a_sentence(folder: Path) -> None:
    refused(*SMALL, "--out", "s", said="a sweep needs a setting to vary")
    refused(*SMALL, *GRID, "--lr", "0.1", said="lr is both given and varied")
    refused(*SMALL, *GRID, "--model", "nowhere", said="unknown model 'nowhere'")
    refused(*SMALL, *GRID, "--against", "parms", said="did you mean 'params'")
    bad = ["--storage", "nodatabase://x/y", "--out", "s"]
    refused(*SMALL, *GRID, *bad, said="the storage nodatabase://x/y cannot be used")
    sweep(*SMALL, *GRID, "--trials", "1", "--out", "s")  # the folder is free again
    refused(*SMALL, *GRID, "--out", "s", said="already holds a sweep.*--resume s")
    refused("--resume", "s", "--epochs", "7", said="started with epochs = 1, not 7")
    refused("--resume", "s", "--out", "t", said="--out and --resume exclude each other")
    refused("--resume", "t", said="t is not the folder of a sweep: it does not exist")
    other = CliRunner().invoke(app, ["sweep", "prune", "--resume", "s"])
    assert "use ramify sweep grow --resume s" in other.stderr
    database = ["--storage", f"sqlite:///{folder}/x.db", "--trials", "1"]
    sweep(*SMALL, *GRID, *database, "--out", "a")
    refused(*SMALL[:-1], "30", *GRID, *database, "--out", "b", said="another sweep of the name")
    joined = sweep(*SMALL, *GRID, *database, "--trials", "2", "--out", "c").output
    assert "2 of 2 trials finished" in joined
    Path("s/sweep.json").write_text("{}")
    refused("--resume", "s", said="s/sweep.json is damaged")
