"""The command line of retrain: what works, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

import ramify
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


def accuracies(run: str) -> list[tuple[str, float]]:
    rows = json.loads(Path(run, "summary.json").read_text())["rows"]
    return [(row["arm"], row["test_accuracy"]["mean"]) for row in rows]


@pytest.mark.usefixtures("no_pages")
def test_retrain_trains_the_shape_from_scratch_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("grow", *GROW, "--seeds", "2", "--out", "run").exit_code == 0
    result = call("retrain", "run", "--epochs", "3", "--lr", "0.05", "--out", "whole")
    assert result.exit_code == 0, result.output
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        result = call("retrain", "run", "--epochs", "3", "--lr", "0.05")
    assert result.exit_code == 130
    assert "to continue: ramify retrain --resume run/retrain" in result.stdout
    assert not Path("run/retrain/summary.json").exists()
    refused(call("retrain", "run"), "by --out, or resume that run with --resume run/retrain")
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


@pytest.mark.usefixtures("no_pages")
def test_retrain_takes_the_shape_of_any_round() -> None:
    assert call("grow", *GROW, "--rounds", "2", "--seeds", "2", "--out", "run").exit_code == 0
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
    assert call("grow", *GROW, "--out", "run").exit_code == 0
    assert call("retrain", "run").exit_code == 0
    assert json.loads(Path("run/retrain/config.json").read_text())["epochs"] == 2
    assert [arm for arm, _ in accuracies("run/retrain")] == ["retrained"]
    assert "retrained" in Path("run/report.html").read_text()


@pytest.mark.usefixtures("no_pages")
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


@pytest.mark.usefixtures("no_pages")
def test_retrain_of_an_unfinished_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        call("grow", *GROW, "--out", "run")
    refused(call("retrain", "run"), "run is not finished; resume it with ramify grow --resume")
