"""The command line of prune: what works, what is refused, and what its runs are good for."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import ramify
from ramify.models import build
from tests.cli.calls import (
    call,
    folder,  # noqa: F401  (every command runs in an empty folder, on noisy copies of three images)
    interrupt,
    refused,
    timeless,
)

SMALL = "--data digits --width 4 --epochs 1 --probe-samples 20 --batch-size 15".split()


def settings_of(run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(run, "config.json").read_text())
    return found


def full_network() -> torch.nn.Module:
    return build("digits_net", dataset_shape=(1, 8, 8), classes=3, width=4)


def test_prune_leaves_a_whole_run_folder() -> None:
    result = call("prune", *SMALL, "--seeds", "2", "--sensitivity")
    assert result.exit_code == 0, result.output
    assert (
        len(
            re.findall(
                r"sensitivity: removing half of '.*' alone raises the loss by", result.stdout
            )
        )
        == 2
    )
    run = Path("runs/digits")
    kept = {path.name for path in run.iterdir()}
    assert kept >= {"model.safetensors", "model-1.json", "baseline-1.safetensors", "report.html"}
    assert not any("scored" in name for name in kept)
    for arm in ("baseline", "pruned"):
        assert re.search(rf"{arm} .* ± ", result.stdout)
    assert "cut, seed 1: pruned " in result.stdout
    assert re.search(
        r"loss predicted \S+, measured \S+ .* on 20 samples not used for", result.stdout
    )
    config = settings_of("runs/digits")
    assert (config["command"], config["searcher"]) == ("prune", "takeover")
    assert (config["budget"], config["temperature"]) == ({"macs": "50%"}, 2.0)
    small = ramify.load(run / "model", build=full_network)
    graph = ramify.trace(small, torch.zeros(1, 1, 8, 8))
    full = ramify.trace(full_network(), torch.zeros(1, 1, 8, 8))
    assert ramify.cost.graph_cost(graph).macs <= 0.5 * ramify.cost.graph_cost(full).macs


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            "--searcher milenas --lam 0.5 --gamma 0.001 --arch-lr 0.02 --pretrain-epochs 2 "
            "--search-epochs 3 --groups layer2*,layer3* --budget params=300 --multiple-of 2 "
            "--from-scratch --distill --temperature 2 --raw",
            {
                "searcher": "milenas",
                "lam": 0.5,
                "beta": None,
                "gamma": 0.001,
                "arch_lr": 0.02,
                "pretrain_epochs": 2,
                "search_epochs": 3,
                "epochs": 1,
                "groups": ["layer2*", "layer3*"],
                "ratio": None,
                "budget": {"params": 300},
                "multiple_of": 2,
                "from_scratch": True,
                "distill": True,
                "temperature": 2,
                "raw": True,
            },
        ),
        (
            "--searcher darts --searcher-order 2 --ratio 0.3 --per-layer --no-refit --keep 2",
            {
                "searcher": "darts2",
                "ratio": 0.3,
                "per_layer": True,
                "budget": None,
                "refit": False,
                "keep": 2,
            },
        ),
        (
            "--budget macs=60% --budget params=350 --keep layer1.0=0.5 --keep layer3.0=3 "
            "--alike layer[12]* --rounds 2 --tuning-lr 0.002 --no-distill",
            {
                "budget": {"macs": "60%", "params": 350},
                "keep": {"layer1.0": 0.5, "layer3.0": 3},
                "alike": ["layer[12]*"],
                "rounds": 2,
                "tuning_lr": 0.002,
                "distill": False,
                "refit": True,
                "search_epochs": 0,
            },
        ),
    ],
)
@pytest.mark.usefixtures("no_pages")
def test_every_option_reaches_the_settings(given: str, wanted: dict[str, Any]) -> None:
    result = call("prune", *SMALL, *given.split(), "--out", "run")
    assert result.exit_code == 0, result.output
    config = settings_of("run")
    assert {key: config[key] for key in wanted} == wanted
    assert type(config["keep"]) is type(wanted.get("keep", 0.1))


@pytest.mark.usefixtures("no_pages")
def test_weights_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    Path("my_net_for_prune.py").write_text(
        "from torch import nn\n"
        "def build(classes):\n"
        "    layers = nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    import my_net_for_prune  # type: ignore[import-not-found]

    torch.manual_seed(0)
    torch.save({"state_dict": my_net_for_prune.build(3).state_dict()}, "net.pt")
    options = ["--model", "my_net_for_prune:build", "--weights", "net.pt", *SMALL[:2], *SMALL[4:]]
    result = call("prune", *options, "--budget", "params=40%", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "full network: finished, test accuracy" in result.stdout
    assert " 0 steps in" in result.stdout
    assert settings_of("run")["pretrain_epochs"] == 0
    assert call("prune", "--resume", "run").exit_code == 0
    torch.save(my_net_for_prune.build(3).state_dict(), "net.pt")
    refused(call("prune", "--resume", "run"), "net.pt are not those that the run was started with")
    refused(call("prune", *options, "--model", "digits_net"), "it lacks layer1.0.weight, layer1.1")
    Path("net.pt").unlink()
    said = "in net.pt, and there is no such file here: run the command in the directory in which"
    refused(call("prune", "--resume", "run"), said)


def test_ctrl_c_in_every_phase_and_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    options = [*SMALL, "--searcher", "joint", "--search-epochs", "2", "--ratio", "0.4"]
    assert call("prune", *options, "--out", "whole").exit_code == 0
    for event in (4, 2, 2):  # in the search, then behind it, then in the tuning
        with monkeypatch.context() as patch:
            interrupt(patch, event)
            begun = Path("run").exists()
            again = ["--resume", "run"] if begun else [*options, "--out", "run"]
            result = call("prune", *again)
        assert result.exit_code == 130
        assert "stopped; to continue: ramify prune --resume run" in result.stdout
        assert "ramify prune --resume RUN" in Path("run/report.html").read_text()
    refused(call("grow", "--resume", "run"), "run is a run of ramify prune")
    refused(call("retrain", "run"), "run is not finished; resume it with ramify prune --resume")
    refused(call("show", "run"), "run is not finished; resume it with ramify prune --resume")
    assert call("prune", "--resume", "run").exit_code == 0
    assert timeless("run") == timeless("whole")


@pytest.mark.usefixtures("no_pages")
def test_a_run_is_retrained_shown_and_exported() -> None:
    assert call("prune", *SMALL, "--pretrain-epochs", "2", "--out", "run").exit_code == 0
    shown = call("show", "run")
    assert shown.exit_code == 0
    small = ramify.load("run/model", build=full_network)
    groups, cost = shown.stdout.rstrip().rsplit("\n\n", 1)
    assert groups.rstrip() == str(ramify.trace(small, torch.zeros(1, 1, 8, 8))).rstrip()
    params = sum(parameter.numel() for parameter in small.parameters())
    assert cost.startswith(f"{params:,} parameters, ")
    assert str(ramify.trace(full_network(), torch.zeros(1, 1, 8, 8))).rstrip() not in shown.stdout
    refused(call("show", "run", "--input", "1,1,8,8"), "leave --input out")
    result = call("retrain", "run")
    assert result.exit_code == 0, result.output
    assert settings_of("run/retrain")["epochs"] == 2 + 1  # as many as the run made
    fresh = ramify.load("run/retrain/model", build=full_network)
    pairs = list(zip(small.parameters(), fresh.parameters(), strict=True))
    assert all(one.shape == two.shape for one, two in pairs)
    assert not torch.equal(*pairs[0])
    pytest.importorskip("onnxscript")
    result = call("export", "run")
    assert result.exit_code == 0, result.output
    assert "run/model.onnx" in result.stdout


@pytest.mark.usefixtures("no_pages")
def test_retraining_what_began_with_weights_takes_a_whole_training() -> None:
    torch.save(full_network().state_dict(), "net.pt")
    options = [*SMALL, "--weights", "net.pt", "--ratio", "0.5"]
    assert call("prune", *options, "--epochs", "0", "--out", "run").exit_code == 0
    assert call("retrain", "run", "--batch-size", "45").exit_code == 0
    assert settings_of("run/retrain")["epochs"] == 20  # of digits where nothing is said


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ("", "no data set was given; try --data digits"),
        ("--data digits --searcher sgd", "choose one of takeover, l1, taylor, random, rarts"),
        ("--data digits --ratio 0.1 --threshold 1", "give one of them"),
        ("--data digits --budget params=10", "with all removable channels removed"),
        ("--data digits --budget macs=0%", "give a number above 0, or a percentage of the full"),
        ("--data digits --budget macs", "--budget is 'macs'; give one of params, macs, .*macs=50%"),
        ("--data digits --budget loss=0.1", "give --accept loss=0.05 instead"),
        ("--data digits --accept better", "--accept is 'better'; give accuracy and the change in"),
        ("--data digits --accept accuracy", "--accept is 'accuracy'; give accuracy and the change"),
        ("--data digits --accept accuracy=-1.0", "accept measures on 100 training samples that"),
        ("--data digits --keep many", "--keep is 'many'; give a share of at most 1.0, a whole n"),
        ("--data digits --keep 0.1 --keep 0.2", "--keep is '0.1'; give a share"),
        ("--data digits --keep layer1.0=1 --keep layer1.0=2", "--keep names layer1.0 twice"),
        ("--data digits --keep layer9=1", "layer9"),
        (
            "--data digits --keep 1.5",
            "keep must be a share of at most 1 or a whole width, but got 1.5",
        ),
        (
            "--data digits --rounds 2 --ratio 0.5",
            "rounds approach a budget step by step, but ratio",
        ),
        (
            "--data digits --epochs 0 --from-scratch",
            "from_scratch is a setting of fine-tuning",
        ),
        (
            "--data digits --weights gone.pt",
            "the file of weights gone.pt does not exist; give what",
        ),
        ("--data digits --beta 1", "beta is not a setting of the searcher takeover, only of rarts"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(arguments: str, pattern: str) -> None:
    refused(call("prune", *arguments.split()), pattern)
    assert list(Path().iterdir()) == []
