"""The command line of grow: what works, what is refused and how, what Ctrl-C leaves."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner

import ramify
from ramify.cli import app, runs
from ramify.commands.grow_settings import LEARNED
from ramify.errors import RamifyError
from ramify.methods import Bottlenecks
from ramify.methods.registry import METHODS
from ramify.models import build
from tests.cli.calls import (
    GROW,
    call,
    folder,  # noqa: F401  (every command runs in an empty folder, on noisy copies of three images)
    interrupt,
    refused,
    seed_network,
    timeless,
)

SCORED = ("random", "net2net", "new-neuron", "boosting", "l1", "bn")


def test_grow_leaves_a_whole_run_folder() -> None:
    result = call("grow", *GROW, "--compare", "--seeds", "2")
    assert result.exit_code == 0, result.output
    run = Path("runs/digits")
    assert sorted(os.listdir(run)) == [
        "command.txt",
        "config.json",
        "metrics.jsonl",
        "model-1.json",
        "model-1.safetensors",
        "model.json",
        "model.safetensors",
        "report.html",
        "sources.json",
        "summary.json",
        "versions.json",
    ]
    assert f"run folder: {run}" in result.stdout
    assert "open runs/digits/report.html in a browser" in result.stdout
    for arm in ("seed", "grown", "scratch", "wide"):
        assert re.search(rf"{arm} .* ± ", result.stdout)
    rows = json.loads((run / "summary.json").read_text())["rows"]
    assert [(row["arm"], row["n"]) for row in rows] == [
        ("seed", 2),
        ("grown", 2),
        ("scratch", 2),
        ("wide", 2),
    ]
    net = ramify.load(run / "model", build=lambda: seed_network())
    assert sum(p.numel() for p in net.parameters()) > sum(
        p.numel() for p in seed_network().parameters()
    )


@pytest.mark.usefixtures("no_pages")
def test_a_second_run_takes_the_next_folder() -> None:
    for _ in range(2):
        assert call("grow", *GROW, "--rounds", "0").exit_code == 0
    assert sorted(os.listdir("runs")) == ["digits", "digits-2"]


@pytest.mark.usefixtures("no_pages")
def test_every_option_reaches_the_settings() -> None:
    options = {
        "model": "digits_net",
        "task": "classification",
        "width": 2,
        "rounds": 1,
        "fraction": 0.25,
        "step": 0.02,
        "method": "s3d",
        "signed": 1.5,
        "copies": "2,4",
        "budget": "params=900",
        "sizes": "700,500",
        "groups": "layer1*,layer2.0",
        "tuning_epochs": 1,
        "multiple_of": 2,
        "surrogate": 2.0,
        "probe_samples": 9,
        "epochs": 1,
        "batch_size": 20,
        "optimizer": "sgd",
        "lr": 0.003,
        "momentum": 0.1,
        "weight_decay": 0.01,
        "schedule": "steps",
        "milestones": "0.25,0.5",
        "span": "run",
        "warmup": 0.1,
        "label_smoothing": 0.05,
        "patience": 2,
        "total_epochs": 3,
        "step_unit": "absolute",
        "seed": 4,
        "seeds": 1,
        "device": "cpu",
        "threads": 1,
    }
    flat = [
        word
        for key, value in options.items()
        for word in (f"--{key.replace('_', '-')}", str(value))
    ]
    flat += ["--budget", "macs=1e6", "--nesterov", "--no-trial", "--no-rescale", "--keep", "2"]
    flat += ["--ceiling", "layer1*=7", "--ceiling", "layer2.0=8", "--per", "macs", "--per-layer"]
    result = call("grow", "--data", "digits", *flat, "--out", "mine")
    assert result.exit_code == 0, result.output
    config = json.loads(Path("mine/config.json").read_text())
    read: dict[str, Any] = {
        "command": "grow",
        "copies": [2, 4],
        "sizes": [700, 500],
        "groups": ["layer1*", "layer2.0"],
        "milestones": [0.25, 0.5],
        "nesterov": True,
        "rule": "top-fraction",
    }
    read |= {"budget": {"params": 900, "macs": 1e6}, "data": "digits", "compare": False}
    read |= {
        "tensorboard": False,
        "trial": False,
        "rescale": False,
        "bottlenecks": False,
        "depth": False,
        "keep": 2,
        "ceiling": {"layer1*": 7, "layer2.0": 8},
        "per": "macs",
        "per_layer": True,
    }
    absent = ("most", "threshold", "tradeoff", "phase", *LEARNED)
    assert config == options | read | dict.fromkeys(absent)
    flat = ["--most", "1", "--threshold", "-0.0001", "--compare", "--out", "other"]
    assert call("grow", *GROW, *flat).exit_code == 0
    config = json.loads(Path("other/config.json").read_text())
    assert (config["most"], config["threshold"], config["compare"]) == (1, -0.0001, True)
    assert config["fraction"] is None


@pytest.mark.usefixtures("no_pages")
def test_growth_of_bottlenecks_widens_the_layers_in_need_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs = {"layer1.0": 0.1, "layer2.0": 1.0, "layer3.0": 0.2}
    monkeypatch.setattr(Bottlenecks, "needs", lambda *_: needs)
    options = "--data digits --width 4 --rounds 1 --epochs 1 --batch-size 64 --bottlenecks".split()
    result = call("grow", *options, "--method", "random", "--fraction", "1", "--out", "run")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    [edit] = (event for event in events if event["event"] == "edit")
    assert [p["group"] for p in edit["proposals"] if p["selected"]] == ["layer2.0"] * 4
    result = call("grow", "--data", "digits", "--method", "l1", "--bottlenecks", "--out", "other")
    assert result.exit_code != 0
    assert "leave bottlenecks out" in " ".join(result.output.split())


@pytest.mark.usefixtures("no_pages")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_changes_the_shape(method: str) -> None:
    options = "--data digits --width 2 --rounds 1 --epochs 1 --batch-size 15 --lr 0.01".split()
    if method != "gauss-newton":
        options += ["--probe-samples", "10"]
    else:
        options += ["--phase", "2"]
    if method in ("l1", "bn", "taylor"):  # every channel of two is needed
        options += ["--no-trial"]
    result = call("grow", *options, "--method", method, "--out", "run")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events] == ["epoch", "edit", "epoch", "stop", "result"]
    edit = events[1]
    kinds = {p["copies"] for p in edit["proposals"] if p["selected"]}
    if method in ("l1", "bn", "taylor"):
        assert kinds == {0}
        assert edit["params_after"] < edit["params_before"]
    elif method != "gauss-newton":
        assert kinds == {2}
        assert edit["params_after"] > edit["params_before"]
    foretold = [edit["predicted_gain"], edit["first_step_gain"]]  # the latter of new neurons
    assert (foretold == [None, None]) == (method in SCORED)
    assert (foretold[1] is None) == (method not in ("auto", "gradmax"))
    assert json.loads(Path("run/summary.json").read_text())["stopped"] == {"grown-0": "rounds"}


def test_an_end_by_torchrun_while_another_error_is_told_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rank that was killed breaks a connection first, and then torchrun ends the others."""

    def ended(*arguments: Any) -> None:
        raise KeyboardInterrupt

    def broken(*arguments: Any, **options: Any) -> None:
        raise RamifyError("another rank ended without a word")

    monkeypatch.setattr(runs, "run_jobs", broken)
    monkeypatch.setattr(runs, "write_report", ended)
    result = call("grow", *GROW, "--out", "run")
    assert result.exit_code == 130
    assert "stopped; to continue: ramify grow --resume run" in result.stdout


def test_a_table_gives_its_folder_a_name_without_the_ending() -> None:
    assert runs.claimed_folder("data/houses.csv") == Path("runs/houses")
    assert runs.claimed_folder("houses.csv:price") == Path("runs/houses-price")
    assert runs.claimed_folder("houses.csv") == Path("runs/houses-2")


def test_ctrl_c_leaves_a_usable_folder_and_resume_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("grow", *GROW, "--out", "whole").exit_code == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        result = call("grow", *GROW, "--out", "run")
    assert result.exit_code == 130
    assert "stopped; to continue: ramify grow --resume run" in result.stdout
    assert "Traceback" not in result.output
    assert Path("run/report.html").exists()
    assert Path("run/model.safetensors").exists()
    assert not Path("run/summary.json").exists()
    assert call("grow", "--resume", "run").exit_code == 0
    assert timeless("run") == timeless("whole")
    assert (
        Path("run/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    )
    assert Path("run/model.json").read_text() == Path("whole/model.json").read_text()
    assert Path("run/config.json").read_text() == Path("whole/config.json").read_text()


@pytest.mark.usefixtures("no_pages")
def test_resume_refuses_other_settings() -> None:
    assert call("grow", *GROW, "--out", "run").exit_code == 0
    refused(call("grow", "--resume", "run", "--lr", "0.7"), "started with lr = 0.1, not 0.7;")
    refused(
        call("grow", "--resume", "run", "--out", "new"), "--out and --resume exclude each other"
    )
    assert call("grow", "--resume", "run", "--lr", "0.1", "--device", "cpu").exit_code == 0


@pytest.mark.usefixtures("no_pages")
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("config.json", "config.json is not readable JSON .*restore it"),
        ("metrics.jsonl", "metrics.jsonl. is damaged at line 1: it is not JSON; restore it"),
        ("checkpoint.safetensors", "checkpoint.safetensors is not a readable safetensors file"),
    ],
)
def test_resume_names_the_damaged_file(
    monkeypatch: pytest.MonkeyPatch, name: str, pattern: str
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        call("grow", *GROW, "--out", "run")
    file = Path("run", name)
    file.write_bytes(b"{oops\n" + file.read_bytes()[6:])
    refused(call("grow", "--resume", "run"), pattern)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ("grow", "no data set was given; try --data digits"),
        ("grow --data nothing", "nothing"),
        ("grow --data digits --model nothing", "unknown model 'nothing'"),
        ("grow --data digits --model no.such:build", "no module 'no'"),
        ("grow --data digits --fraction 0.5 --most 3", "fraction was given together with most"),
        ("grow --data digits --method magic", "no method 'magic'; choose one of s2d, s3d"),
        (
            "grow --data digits --method gauss-newton --step 1",
            "step is not a setting of the method ga",
        ),
        ("grow --data digits --method l1 --threshold -1", "threshold is not .* only of s2d, s3d;"),
        (
            "grow --data digits --method s2d --phase 2",
            "phase is not a setting of the method s2d, only of gauss-newton",
        ),
        (
            "grow --data digits --method s2d --copies 2",
            "copies is not a setting of the method s2d, only of s3d",
        ),
        ("grow --data digits --method s3d --copies 2,x", "--copies is '2,x'; give numbers such as"),
        ("grow --data digits --budget params", "--budget is 'params'; give one of params, macs"),
        ("grow --data digits --budget size=3", "there is no budget of 'size'; give params"),
        (
            "grow --data digits --budget params=9 --budget params=8",
            "--budget names params twice; give each once",
        ),
        (
            "grow --data digits --method s2d --width 4 --ceiling 4",
            "no layer can grow, since each is as wide as its ceiling or cannot be split",
        ),
        (
            "grow --data digits --method s2d --width 4 --ceiling layer1*=4 --groups layer1*",
            "no layer of the groups can grow, since each is as wide as its ceiling",
        ),
        ("grow --data digits --groups layr1*", "groups: no group of channels matches 'layr1.'"),
        (
            "grow --data digits --ceiling layr1*=9",
            "no group of channels matches 'layr1.'.* 'layer1",
        ),
        ("grow --data digits --keep layer9=9", "no group, module or parameter 'layer9': the near"),
        (
            "grow --data digits --ceiling layer1=x",
            "--ceiling is 'layer1=x'; give a whole number of",
        ),
        (
            "grow --data digits --method s2d --milestones 0.5",
            "a setting of the schedule steps, not of cosine",
        ),
        ("grow --data digits --nesterov --optimizer adam", "setting of sgd, not of adam"),
        ("grow --data digits --span day", "unknown span 'day'; choose one of round, run"),
        ("retrain", "nothing to retrain was given; give a run folder or a saved network"),
        ("retrain nowhere", "nowhere is neither a run folder nor a saved network"),
        ("retrain one --resume two", "either a network to retrain or --resume RUN, not both"),
        ("grow --data digits --lr 0", "learning rate is 0.0; it must be above 0"),
        ("grow --data digits --threshold 1", "threshold must be 0 or less"),
        ("grow --data digits --device foo", "there is no device 'foo' on this machine; give cpu"),
        ("grow --data digits --device cuda:99", "there is no device 'cuda:99' on this machine"),
        ("grow --data digits --weight-decay -1", "weight_decay is -1.0; it must not be negative"),
        ("grow --data digits --momentum 2", "momentum is 2.0; it must be at least 0 and below 1"),
        ("show digits_net --input 1,8,8", "the first number is that of the samples, as in 1,3,32"),
        ("show digits_net --input 1,8,8,3", "but these look like .N, H, W, C."),
        ("grow --resume nowhere", "nowhere is not a run folder: it does not exist"),
        ("show digits_net", "by --data NAME or by --input 1,3,32,32"),
        ("show digits_net --input 1,x,8", "--input is '1,x,8'; give whole numbers"),
        ("show nothing --data digits", "there is no folder and no network 'nothing'"),
        ("report nowhere", "nowhere.* is not a run folder"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(arguments: str, pattern: str) -> None:
    refused(call(*arguments.split()), pattern)
    assert os.listdir(".") == []


@pytest.mark.usefixtures("no_pages")
def test_a_setting_of_the_wrong_type_is_one_sentence() -> None:
    assert call("grow", *GROW, "--out", "run").exit_code == 0
    file = Path("run/config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lr": "fast"}))
    refused(call("grow", "--resume", "run"), "config.json gives lr as 'fast', which is not a numb")


def test_a_run_that_diverges_says_so_and_stays_usable() -> None:
    result = call("grow", *GROW, "--lr", "1e30", "--out", "run")
    refused(result, r"round 0, epoch 0")
    assert Path("run/report.html").exists()
    refused(call("grow", "--resume", "run"), r"round 0, epoch 0")


@pytest.mark.usefixtures("no_pages")
def test_a_model_of_the_user_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    Path("mine_for_test.py").write_text(
        "from torch import nn\n"
        "def build(classes):\n"
        "    layers = nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    result = call("grow", "--model", "mine_for_test:build", *GROW[:2], *GROW[4:], "--out", "run")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    edits = [event for event in events if event["event"] == "edit"]
    assert edits
    assert edits[0]["widths_after"]["1"] > edits[0]["widths_before"]["1"] == 3


@pytest.mark.parametrize("where", [["--data", "digits"], ["--input", "1,1,8,8", "--classes", "3"]])
def test_show_prints_the_channel_groups(where: list[str]) -> None:
    result = call("show", "digits_net", "--width", "5", *where)
    assert result.exit_code == 0, result.output
    expected = ramify.trace(
        build("digits_net", dataset_shape=(1, 8, 8), classes=3, width=5),
        torch.zeros(1, 1, 8, 8),
    )
    assert result.stdout.startswith(str(expected))
    assert "2 blocks" in result.stdout


def test_report_writes_the_page_again() -> None:
    assert call("grow", *GROW, "--out", "run").exit_code == 0
    Path("run/report.html").unlink()
    result = call("report", "run")
    assert result.exit_code == 0
    assert result.stdout.strip() == "run/report.html"
    assert Path("run/report.html").exists()


@pytest.mark.parametrize(
    "command", ["prune", "grow", "search", "retrain", "show", "report", "export"]
)
def test_help_explains_every_option(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    parameters = [parameter.name for parameter in get_command(app).commands[command].params]
    assert len(parameters) == len(set(parameters)) > 0
    for parameter in parameters:
        option = {"shape": "input"}.get(parameter, parameter).replace("_", "-")
        assert re.search(rf"(--)?{option} .*[a-z]{{3}}.*[a-z]{{3}}", result.stdout), option


@pytest.mark.usefixtures("no_pages")
def test_a_warning_is_one_line_without_a_place_in_the_code() -> None:
    result = call("grow", *GROW, "--lr", "1e-9", "--out", "run")
    assert result.exit_code == 0, result.output
    assert re.fullmatch("warning: before its first edit .* a wider network[.]\n", result.stderr)


@pytest.mark.usefixtures("no_pages")
def test_a_run_begins_with_its_data_and_labels_that_are_never_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(".")
    Path("from_one_for_test.py").write_text(
        "import torch\n"
        "class Data:\n"
        "    x_train = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))\n"
        "    y_train = 1 + torch.arange(30) % 3\n"
        "    x_test, y_test = x_train[:6], y_train[:6]\n"
    )
    arguments = ("--data", "from_one_for_test:Data", "--model", "digits_net", *GROW[2:])
    result = call("grow", *arguments, "--out", "run")
    assert result.exit_code == 0, result.output
    assert "classification of from_one_for_test:Data: 4 classes" in result.stdout
    assert "has the label 0, so the network has outputs that it never learns" in result.stderr
    Path("three_for_test.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    wrong = call("grow", *arguments[:2], "--model", "three_for_test:build", *GROW[4:])
    refused(wrong, r"\(1, 4\), is needed \(no training sample of .* labels count from 0\)")
