"""The command line of grow and retrain: what works, what is refused and how, what Ctrl-C leaves."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.main import get_command
from typer.testing import CliRunner, Result

import ramify
from ramify.cli import app, runs
from ramify.commands.display import Display
from ramify.commands.grow_settings import LEARNED
from ramify.data import Dataset
from ramify.data import load as load_named
from ramify.errors import RamifyError
from ramify.methods.registry import METHODS
from ramify.models import build

SCORED = ("random", "net2net", "new-neuron", "boosting", "l1", "bn")
SMALL = "--data digits --width 2 --rounds 1 --epochs 1 --probe-samples 20 --batch-size 15".split()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder, on noisy copies of three images."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(60) % 3
    images = torch.randn(3, 1, 8, 8, generator=generator)[labels]
    images = images + 0.5 * torch.randn(60, 1, 8, 8, generator=generator)
    data = Dataset("d", images[:45], labels[:45], images[45:], labels[45:], ("a", "b", "c"))

    def load(name: str, **named: str) -> Dataset:
        return data if name == "digits" else load_named(name, **named)

    monkeypatch.setattr("ramify.commands.show.load", load)
    monkeypatch.setattr("ramify.commands.jobs.load", load)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def refused(result: Result, pattern: str) -> None:
    """One clean sentence on standard error, exit code 2."""
    assert result.exit_code == 2, result.output
    assert re.fullmatch(rf"error: .*{pattern}.*\n", result.stderr), result.stderr
    assert "Traceback" not in result.output


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C behind the event of that number."""
    original: Callable[[Display, dict[str, Any]], None] = Display.event
    left = [after]

    def event(self: Display, seen: dict[str, Any]) -> None:
        original(self, seen)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Display, "event", event)


def test_grow_leaves_a_whole_run_folder() -> None:
    result = call("grow", *SMALL, "--compare", "--seeds", "2")
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


def seed_network() -> nn.Module:
    return build("digits_net", dataset_shape=(1, 8, 8), classes=3, width=2)


def test_a_second_run_takes_the_next_folder() -> None:
    for _ in range(2):
        assert call("grow", *SMALL, "--rounds", "0").exit_code == 0
    assert sorted(os.listdir("runs")) == ["digits", "digits-2"]


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
        "milestones": [0.25, 0.5],
        "nesterov": True,
        "rule": "top-fraction",
    }
    read |= {"budget": {"params": 900, "macs": 1e6}, "data": "digits", "compare": False}
    read |= {
        "tensorboard": False,
        "trial": False,
        "rescale": False,
        "depth": False,
        "keep": 2,
        "ceiling": {"layer1*": 7, "layer2.0": 8},
        "per": "macs",
        "per_layer": True,
    }
    absent = ("most", "threshold", "tradeoff", "phase", *LEARNED)
    assert config == options | read | dict.fromkeys(absent)
    flat = ["--most", "1", "--threshold", "-0.0001", "--compare", "--out", "other"]
    assert call("grow", *SMALL, *flat).exit_code == 0
    config = json.loads(Path("other/config.json").read_text())
    assert (config["most"], config["threshold"], config["compare"]) == (1, -0.0001, True)
    assert config["fraction"] is None


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
    assert (edit["predicted_gain"] is None) == (method in SCORED)
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
    result = call("grow", *SMALL, "--out", "run")
    assert result.exit_code == 130
    assert "stopped; to go on: ramify grow --resume run" in result.stdout


def test_a_table_gives_its_folder_a_name_without_the_ending() -> None:
    assert runs.claimed_folder("data/houses.csv") == Path("runs/houses")
    assert runs.claimed_folder("houses.csv:price") == Path("runs/houses-price")
    assert runs.claimed_folder("houses.csv") == Path("runs/houses-2")


def test_ctrl_c_leaves_a_usable_folder_and_resume_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("grow", *SMALL, "--out", "whole").exit_code == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        result = call("grow", *SMALL, "--out", "run")
    assert result.exit_code == 130
    assert "stopped; to go on: ramify grow --resume run" in result.stdout
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


def timeless(run: str) -> list[Any]:
    def cut(value: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in value.items() if k not in ("t", "seconds")}

    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    rows = json.loads(Path(run, "summary.json").read_text())["rows"]
    return [cut(json.loads(line)) for line in lines] + [cut(row) for row in rows]


def test_resume_refuses_other_settings() -> None:
    assert call("grow", *SMALL, "--out", "run").exit_code == 0
    refused(call("grow", "--resume", "run", "--lr", "0.7"), r"begun with lr = 0.1, not 0.7; resume")
    refused(
        call("grow", "--resume", "run", "--out", "new"), "--out and --resume exclude each other"
    )
    assert call("grow", "--resume", "run", "--lr", "0.1", "--device", "cpu").exit_code == 0


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
        call("grow", *SMALL, "--out", "run")
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
            "step is no setting of the method ga",
        ),
        ("grow --data digits --method l1 --threshold -1", "threshold is no .* but of s2d, s3d;"),
        (
            "grow --data digits --method s2d --phase 2",
            "phase is no setting of the method s2d but of gauss-newton",
        ),
        (
            "grow --data digits --method s2d --copies 2",
            "copies is no setting of the method s2d but of s3d",
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
            "those of the schedule steps, not of cosine",
        ),
        ("grow --data digits --nesterov --optimizer adam", "setting of sgd, not of adam"),
        ("grow --data digits --span day", "unknown span 'day'; choose one of round, run"),
        ("retrain", "nothing to retrain was given; give a run folder or a saved network"),
        ("retrain nowhere", "nowhere is neither a run folder nor a saved network"),
        ("retrain one --resume two", "either a network to retrain or --resume RUN, not both"),
        ("grow --data digits --lr 0", "learning rate is 0.0; it must be above 0"),
        ("grow --data digits --threshold 1", "so it is 0 or less"),
        ("grow --data digits --device foo", "there is no device 'foo' on this machine; give cpu"),
        ("grow --data digits --device cuda:99", "there is no device 'cuda:99' on this machine"),
        ("grow --data digits --weight-decay -1", "weight_decay is -1.0; it must not be negative"),
        ("grow --data digits --momentum 2", "momentum is 2.0; it is 0 or more, and below 1"),
        ("show digits_net --input 1,8,8", "the first number is that of the samples, as in 1,3,32"),
        ("show digits_net --input 1,8,8,3", "and these look like .N, H, W, C."),
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


def test_a_setting_of_the_wrong_type_is_one_sentence() -> None:
    assert call("grow", *SMALL, "--out", "run").exit_code == 0
    file = Path("run/config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lr": "fast"}))
    refused(call("grow", "--resume", "run"), "config.json gives lr as 'fast', which is not a numb")


def accuracies(run: str) -> list[tuple[str, float]]:
    rows = json.loads(Path(run, "summary.json").read_text())["rows"]
    return [(row["arm"], row["test_accuracy"]["mean"]) for row in rows]


def test_retrain_trains_the_shape_from_scratch_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("grow", *SMALL, "--seeds", "2", "--out", "run").exit_code == 0
    result = call("retrain", "run", "--epochs", "3", "--lr", "0.05", "--out", "whole")
    assert result.exit_code == 0, result.output
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        result = call("retrain", "run", "--epochs", "3", "--lr", "0.05")
    assert result.exit_code == 130
    assert "to go on: ramify retrain --resume run/retrain" in result.stdout
    assert not Path("run/retrain/summary.json").exists()
    refused(call("retrain", "run"), "by --out, or go on with that run by --resume run/retrain")
    refused(call("grow", "--resume", "run/retrain"), "use ramify retrain --resume run/retrain")
    assert call("retrain", "--resume", "run/retrain").exit_code == 0
    assert timeless("run/retrain") == timeless("whole")
    for name in ("model", "model-1"):
        for suffix in (".safetensors", ".json"):
            own, other = Path("whole", name + suffix), Path("run/retrain", name + suffix)
            assert own.read_bytes() == other.read_bytes()
        grown, fresh = (
            ramify.load(f"{run}/{name}", build=seed_network) for run in ("run", "whole")
        )
        pairs = list(zip(grown.parameters(), fresh.parameters(), strict=True))
        assert [one.shape for one, _ in pairs] == [two.shape for _, two in pairs]
        assert not torch.equal(*pairs[0])
    config = json.loads(Path("whole/config.json").read_text())
    assert (config["epochs"], config["lr"], config["batch_size"]) == (3, 0.05, 15)
    refused(call("retrain", "run", "--seeds", "3", "--out", "b"), "run holds 2 networks, and each")


def test_retrain_takes_the_shape_of_any_round() -> None:
    assert call("grow", *SMALL, "--rounds", "2", "--seeds", "2", "--out", "run").exit_code == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    edits = [e for e in lines if e["event"] == "edit"]
    assert len(edits) == 4
    for number in range(3):
        result = call("retrain", "run", "--epochs", "1", "--round", str(number))
        assert result.exit_code == 0, result.output
        for seed, name in enumerate(("model", "model-1")):
            own = [e for e in edits if e["seed"] == seed]
            params = own[number - 1]["params_after"] if number else own[0]["params_before"]
            fresh = ramify.load(f"run/retrain-{number}/{name}", build=seed_network)
            assert sum(p.numel() for p in fresh.parameters()) == params
    shapes = [
        json.loads(Path(place, "model.json").read_text())["shapes"]
        for place in ("run", "run/retrain-2")
    ]
    assert shapes[0] == shapes[1]
    refused(call("retrain", "run", "--round", "3"), "run has 2 changes of the shape with seed 0")
    refused(
        call("retrain", "run/model", "--data", "digits", "--model", "digits_net", "--round", "1"),
        "run/model is a saved network, which has one shape: leave round out.",
    )


def test_retrain_makes_as_many_epochs_as_the_run() -> None:
    assert call("grow", *SMALL, "--out", "run").exit_code == 0
    assert call("retrain", "run").exit_code == 0
    assert json.loads(Path("run/retrain/config.json").read_text())["epochs"] == 2
    assert [arm for arm, _ in accuracies("run/retrain")] == ["retrained"]
    assert "retrained" in Path("run/report.html").read_text()


def test_retrain_takes_a_saved_network() -> None:
    ramify.save(build("digits_net", dataset_shape=(1, 8, 8), classes=3, width=5), "net")
    refused(
        call("retrain", "net"),
        "net is a saved network, not a run; to retrain it, say with --data and --mode",
    )
    options = "--data digits --model digits_net --epochs 1 --batch-size 15 --seeds 2".split()
    for source in ("net", "net.safetensors"):
        result = call("retrain", source, *options)
        assert result.exit_code == 0, result.output
        assert "mean ± sample standard deviation over n = 2 seeds" in result.stdout
        shapes = json.loads(Path("net-retrain/model.json").read_text())["shapes"]
        assert shapes == json.loads(Path("net.json").read_text())["shapes"]
        Path("net-retrain").rename(source + "-done")
    refused(call("retrain", "net", *options[:3], "vgg19"), "class")


def test_retrain_of_an_unfinished_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        call("grow", *SMALL, "--out", "run")
    refused(call("retrain", "run"), "run is not finished; go on with it by ramify grow --resume")


def test_a_run_that_diverges_says_so_and_stays_usable() -> None:
    result = call("grow", *SMALL, "--lr", "1e30", "--out", "run")
    refused(result, r"round 0, epoch 0")
    assert Path("run/report.html").exists()
    refused(call("grow", "--resume", "run"), r"round 0, epoch 0")


def test_a_model_of_the_user_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(".")
    Path("mine_for_test.py").write_text(
        "from torch import nn\n"
        "def build(classes):\n"
        "    layers = nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, classes)\n"
        "    return nn.Sequential(nn.Flatten(), *layers)\n"
    )
    result = call("grow", "--model", "mine_for_test:build", *SMALL[:2], *SMALL[4:], "--out", "run")
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
    assert call("grow", *SMALL, "--out", "run").exit_code == 0
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
