"""The command line in a run folder makes the run again, and so does its file of settings."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ramify.cli import app
from ramify.commands.command_line import command_line, options_for
from ramify.commands.grow_settings import GrowSettings
from ramify.commands.prune_settings import PruneSettings
from ramify.commands.search_settings import SearchSettings
from ramify.commands.settings import Settings
from ramify.report import write_report

GIVEN: list[tuple[type[Settings], dict[str, Any]]] = [
    (GrowSettings, {"data": "digits"}),
    (GrowSettings, {"data": "digits", "method": "s2d", "budget": {"params": 1200.0}, "lr": 0.05}),
    (
        GrowSettings,
        {"data": "mnist", "rule": "threshold", "most": 3, "method": "s3d", "trial": False},
    ),
    (GrowSettings, {"data": "digits", "optimizer": "adamw", "copies": (2, 3), "method": "s3d"}),
    (GrowSettings, {"data": "cifar10", "keep": {"layer1*": 3}, "seeds": 2}),
    (PruneSettings, {"data": "digits", "searcher": "rarts", "ratio": 0.25}),
    (PruneSettings, {"data": "digits", "budget": {"macs": "30%"}, "keep": 1.0, "distill": False}),
    (SearchSettings, {"data": "cifar10", "space": "nats", "searcher": "darts2", "epochs": 9}),
]


@pytest.mark.parametrize("kind, given", GIVEN)
def test_options_lead_back_to_all_settings(kind: type[Settings], given: dict[str, Any]) -> None:
    settings = kind.resolve(given)
    found = options_for(settings, kind.resolve)
    assert kind.resolve(found) == settings
    assert set(found) <= set(given)  # nothing that would come by itself


def run(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def test_a_run_is_made_again_by_its_line_and_by_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = "--data digits --epochs 1 --rounds 1 --width 2 --method random --lr 0.05".split()
    budget = ["--budget", "params=400", "--no-trial"]
    first = tmp_path / "first"
    run("grow", *few, *budget, "--out", first)
    line = (first / "command.txt").read_text()
    expected = {"method": "random", "lr": 0.05, "budget": {"params": 400.0}, "trial": False}
    assert expected.items() <= config(first).items()
    settings = yaml.safe_dump(config(first))
    (tmp_path / "settings.yaml").write_text(settings)
    again: list[list[str | Path]] = [
        [*shlex.split(line)[1:]],
        ["grow", "--config", first / "config.json"],
        ["grow", "--config", tmp_path / "settings.yaml"],
    ]
    for number, words in enumerate(again):
        folder = tmp_path / f"again-{number}"
        run(*words, "--out", folder)
        assert config(folder) == config(first)
        assert (folder / "model.safetensors").read_bytes() == (
            first / "model.safetensors"
        ).read_bytes()
        assert sorted(shlex.split((folder / "command.txt").read_text())) == sorted(
            shlex.split(line)
        )
    assert line.strip() in write_report(first).read_text()
    run("retrain", first, "--epochs", "1")
    retrain = (first / "retrain" / "command.txt").read_text()
    assert retrain == f"ramify retrain {first} --epochs 1\n"
    run("compare", first, "--out", tmp_path / "page.html")
    assert line.strip() in (tmp_path / "page.html").read_text()


def test_a_line_is_fit_for_a_shell() -> None:
    options = {"data": "a b", "keep": {"*.fc1": 1.0, "x": 2}, "milestones": (0.5, 0.75)}
    line = command_line("grow", options, ["my run"])
    keep = ["--keep", "*.fc1=1.0", "--keep", "x=2"]
    rest = [*keep, "--milestones", "0.5,0.75"]
    assert shlex.split(line) == ["ramify", "grow", "my run", "--data", "a b", *rest]


@pytest.mark.parametrize(
    "text, said",
    [
        ("data: [digits", "is no readable YAML file"),
        ("!!python/object/apply:os.abort []", "is no readable YAML file"),
        ("- digits", "does not hold settings of ramify grow"),
        ("data: digits\nlr: fast", "lr is 'fast', which is not a number"),
        ("data: digits\nlrr: 1", r"has a setting 'lrr' (did you mean 'lr'?)"),
    ],
)
def test_a_wrong_file_of_settings_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    done = CliRunner().invoke(app, ["grow", "--config", str(tmp_path / "x.yaml")])
    assert done.exit_code == 2
    assert said in done.stderr


def test_numbers_of_yaml_are_those_of_json(tmp_path: Path) -> None:
    (tmp_path / "x.yml").write_text("data: digits\nlr: 5e-2\nweight_decay: 1.e-3\nepochs: 3\n")
    found = GrowSettings.of_file(tmp_path / "x.yml", {})
    assert found == {"data": "digits", "lr": 0.05, "weight_decay": 0.001, "epochs": 3}
    assert GrowSettings.of_file(None, {}) == {}


def test_the_version_is_said() -> None:
    assert run("--version").startswith("ramify ")
