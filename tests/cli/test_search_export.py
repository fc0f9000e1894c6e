"""Cells through the command line alone: search, retrain, export, interrupted on the way."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import ramify
from ramify.cells import NATS, Genotype
from ramify.cells.derive import random_genotype
from ramify.cli import app
from ramify.commands.display import Display
from ramify.commands.search import benchmark
from ramify.commands.search_settings import SearchSettings
from ramify.data import load
from ramify.tracing.recorder import evaluating
from tests.processes import clean_processes

TOY = (
    "search --data digits --space nats --channels 2 --cells 1 --samples 120 --batch-size 30".split()
)
TIMES = ("t", "seconds", "latency")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result


def refused(result: Result, pattern: str) -> None:
    """One clean sentence on standard error, exit code 2."""
    assert re.fullmatch(rf"error: .*{pattern}.*\n", result.stderr), result.stderr


def interrupted(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command, and a true SIGINT behind its first event."""
    original = Display.event

    def event(self: Display, seen: dict[str, Any]) -> None:
        original(self, seen)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Display, "event", event)
            result = call(*arguments, code=130)
    finally:
        signal.signal(signal.SIGINT, before)
    assert f"to continue: ramify {arguments[0]} --resume" in result.stdout


def killed(*arguments: str, run: Path) -> None:
    """The command in a process of its own, and a true SIGKILL behind its first event."""
    process = clean_processes().Process(target=killing_itself, args=(Path.cwd(), arguments))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (run / "metrics.jsonl").read_text().count("\n") == 1
    assert not (run / "summary.json").exists()


def killing_itself(folder: Path, arguments: tuple[str, ...]) -> None:
    """Run the command in the folder; the process is killed behind the first event."""
    os.chdir(folder)
    torch.set_num_threads(1)
    Display.event = lambda self, seen: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    CliRunner().invoke(app, list(arguments))


def timeless(run: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: v for key, v in event.items() if key not in TIMES} for event in events]


@pytest.mark.usefixtures("no_pages")
def test_from_search_to_onnxruntime_through_interruptions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    run, toy = Path("run"), [*TOY, "--epochs", "4"]
    _through_interruptions(monkeypatch, run, toy)
    call("report", "run")
    text = (run / "genotype.txt").read_text()
    made = lambda: NATS.network(text, channels=2, cells=1, in_channels=1)  # noqa: E731
    net, images = ramify.load(run / "retrain/model", build=made), load("digits").x_test
    session = onnxruntime.InferenceSession(str(run / "retrain/model.onnx"))
    [scores] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with evaluating(net):
        wanted = net(images).numpy()
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-4)
    assert (scores.argmax(1) == wanted.argmax(1)).all()
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == list(load("digits").classes)
    assert {"mean", "std"} <= set(told)
    page = (run / "report.html").read_text()
    assert text.strip() in page.replace("&#39;", "'")
    assert "How the mixing weights moved" in page
    assert "retrained" in page
    assert (run / "cell.svg").exists()
    assert (run / "cell.png").exists()


def _through_interruptions(monkeypatch: pytest.MonkeyPatch, run: Path, toy: list[str]) -> None:
    """A search killed and interrupted, its training interrupted: as if nothing had happened."""
    call(*toy, "--out", "whole")
    killed(*toy, "--out", "run", run=run)
    refused(call("retrain", "run", code=2), "run is not finished; resume it with ramify search")
    interrupted(monkeypatch, "search", "--resume", "run")
    call("search", "--resume", "run")
    assert timeless(run) == timeless(Path("whole"))
    for name in ("genotype.json", "genotype.txt", "summary.json"):
        assert (run / name).read_bytes() == Path("whole", name).read_bytes()
    refused(
        call("export", "run", code=2), "without trained weights; train it by ramify retrain run"
    )
    call("retrain", "whole", "--epochs", "2")
    interrupted(monkeypatch, "retrain", "run", "--epochs", "2")
    call("retrain", "--resume", "run/retrain")
    assert timeless(run / "retrain") == timeless(Path("whole/retrain"))
    assert "predicts the same for 256 test samples" in call("export", "run").stdout


@pytest.mark.usefixtures("no_pages")
def test_every_option_reaches_the_settings() -> None:
    options = {
        "space": "nats",
        "channels": 2,
        "cells": 1,
        "searcher": "rarts",
        "epochs": 2,
        "samples": 64,
        "arch_lr": 0.02,
        "arch_weight_decay": 0.5,
        "lam": 2.0,
        "beta": 0.25,
        "latency_weight": 0.5,
        "warmup_epochs": 1,
        "partial_channels": 2,
        "skip_stop": 6,
        "batch_size": 16,
        "lr": 0.05,
        "weight_decay": 0.001,
        "seed": 3,
        "seeds": 1,
        "device": "cpu",
        "threads": 1,
    }
    flat = [w for key, v in options.items() for w in (f"--{key.replace('_', '-')}", str(v))]
    call("search", "--data", "digits", *flat, "--out", "run")
    config = json.loads(Path("run/config.json").read_text())
    open_ones = {"latency_table": None, "candidates": None, "tensorboard": False}
    assert config == options | open_ones | {
        "command": "search",
        "data": "digits",
        "select": "mixing",
    }
    table = json.loads(Path("run/latency.json").read_text())
    assert {entry["operation"] for entry in table["entries"]} == set(NATS.operations)
    flat[flat.index("--seed") + 1] = "4"
    flat += ["--epochs", "1", "--warmup-epochs", "0", "--select", "perturbation"]
    place = flat.index("--skip-stop")
    del flat[place : place + 2]
    call("search", "--data", "digits", *flat, "--latency-table", "run/latency.json", "--out", "two")
    assert Path("two/latency.json").read_text() == Path("run/latency.json").read_text()
    refused(
        call("search", "--resume", "run", "--arch-lr", "0.5", code=2), "started with arch_lr = 0.02"
    )


def test_random_search_trains_candidates_and_takes_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = [*TOY, "--searcher", "random", "--candidates", "3", "--epochs", "2"]
    call(*toy, "--out", "whole")
    interrupted(monkeypatch, *toy, "--out", "run")
    call("search", "--resume", "run")
    assert timeless(Path("run")) == timeless(Path("whole"))
    results = [event for event in timeless(Path("run")) if event["event"] == "result"]
    tried, found = results[:-1], results[-1]
    assert [event["arm"] for event in tried] == ["candidate0", "candidate1", "candidate2"]
    assert len({event["genotype"] for event in tried}) == 3
    best = max(tried, key=lambda event: event["valid_accuracy"])
    assert found["arm"] == "searched"
    assert (found["genotype"], found["params"]) == (best["genotype"], best["params"])
    assert found["steps"] == 3 * 2 * 2  # candidates, epochs, batches of the first half
    assert "Random search trained these" in Path("run/report.html").read_text()


@pytest.mark.usefixtures("no_pages")
def test_a_space_of_the_users_own() -> None:
    Path("own_space.py").write_text(
        "from torch import nn\n"
        "from ramify.cells import NATS\n"
        "ops = dict(NATS.operations)\n"
        "ops['gate'] = lambda channels, stride, searching: nn.Sigmoid()\n"
        "space = NATS(name='own', operations=ops, states=2)\n"
        "nothing = 3\n"
    )
    small = "--channels 2 --cells 1 --samples 60 --epochs 1 --searcher darts1".split()
    call("search", "--data", "digits", "--space", "own_space:space", *small, "--out", "run")
    told = json.loads(Path("run/space.json").read_text())
    assert (told["name"], told["states"], told["operations"][-1]) == ("own", 2, "gate")
    refused(call("retrain", "run", "--round", "1", code=2), "which has no rounds: leave round out")
    call("retrain", "run", "--epochs", "1", "--channels", "3")
    assert json.loads(Path("run/retrain/config.json").read_text())["channels"] == 3


def test_what_the_benchmark_knows_stands_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tables:
        def accuracy(self, genotype: Genotype, data: str) -> float:
            return {"cifar10": 10.0, "cifar100": 20.0}[data] + genotype.share("none")

        def percentile(self, genotype: Genotype, data: str) -> float:
            return 99.0

    def missing() -> None:
        raise ramify.RamifyError("not there.")

    genotype = random_genotype(NATS, 0)
    config = SearchSettings.resolve({"data": "cifar100", "space": "nats"})
    monkeypatch.setattr("ramify.commands.search.NatsTables", Tables)
    known = benchmark(config, genotype)
    assert list(known.values()) == [20.0 + genotype.share("none"), 99.0]
    assert benchmark(SearchSettings.resolve({"data": "digits", "space": "nats"}), genotype) == {}
    assert benchmark(SearchSettings.resolve({"data": "cifar10"}), genotype) == {}
    monkeypatch.setattr("ramify.commands.search.NatsTables", missing)
    assert benchmark(config, genotype) == {}


@pytest.mark.parametrize(
    "line, pattern",
    [
        ("search", "no data set was given"),
        ("search --data digits --space gone", "unknown space 'gone'"),
        ("search --data digits --space no.such:space", "no module 'no'"),
        ("search --data digits --space json:loads", "json:loads is a function, where a ramify"),
        ("search --data digits --searcher enas", "there is no searcher 'enas'"),
        ("search --data digits --searcher darts1 --beta 1", "beta is not a setting of .* darts1"),
        ("search --data digits --searcher random --arch-lr 1", "arch_lr is not a setting of"),
        (
            "search --data digits --candidates 3",
            "candidates is not a setting of the searcher",
        ),
        ("search --data digits --select best", "there is no select 'best'"),
        ("search --data digits --select perturbation --skip-stop 2", "leave one of them out"),
        ("search --data digits --cells 2", "DARTS cannot have 2 cells"),
        ("search --data digits --samples 3", "samples is 3; it must be at least 4"),
        ("search --data digits --samples 99999", "samples is 99999, and digits has"),
        ("search --data digits --epochs 2 --warmup-epochs 2", "warmup_epochs is 2 of 2 epochs"),
        (
            "search --data digits --latency-weight -1",
            "latency_weight is -1.0; it must be at least 0",
        ),
        ("search --data digits --latency-table f", "latency_table has no effect without latency"),
        (
            "search --data digits --latency-weight 1 --latency-table f",
            "f is missing; give the file of a latency table",
        ),
        (
            "search --data experiments.s2d.points.shapes:load",
            "shapes:load holds samples of shape .* and cells are for images",
        ),
        ("search --resume nowhere", "nowhere is not a run folder"),
        ("export nowhere", "nowhere is neither a run folder nor a saved network"),
        ("retrain nowhere --channels 3 --data digits --model digits_net", "nowhere is neither a"),
    ],
)
def test_slips_are_named(line: str, pattern: str) -> None:
    refused(call(*line.split(), code=2), pattern)
    assert os.listdir() == []


@pytest.mark.usefixtures("no_pages")
def test_what_else_a_run_made_is_exported_too() -> None:
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    small = "--data digits --width 2 --rounds 1 --epochs 1 --probe-samples 20 --seeds 2".split()
    call("grow", *small, "--out", "run")
    said = call("export", "run").stdout
    assert [line.partition(":")[0] for line in said.splitlines()] == [
        "run/model.onnx",
        "run/model-1.onnx",
    ]
    call("export", "run", "--data", "digits")  # what the run was made with may be named again
    refused(call("export", "run", "--data", "mnist", code=2), "leave --data out")
    refused(call("export", "run/model", code=2), "to export it, say with --data and --model")
    call("export", "run/model-1", "--data", "digits", "--model", "digits_net", "--width", "2")
    refused(call("retrain", "run", "--cutout", "4", code=2), "cutout is a setting of cells")
