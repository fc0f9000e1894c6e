"""A run folder as a real run leaves it, made up without training anything."""

import json
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

DIGITS = {"conv1": 4, "conv2": 4, "conv3": 6}
ARMS = ("grown", "seed", "scratch", "wide")
CEILINGS = {"seed": 0.86, "grown": 0.965, "scratch": 0.955, "wide": 0.945}


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def cost(widths: dict[str, int]) -> tuple[int, int]:
    """Parameters and MACs of a chain of 3x3 convolutions."""
    sizes = [1, *widths.values()]
    params = sum(9 * a * b + b for a, b in pairwise(sizes))
    return params, 64 * params


def make_edit(
    rng: random.Random, job: str, number: int, step: int, widths: dict[str, int]
) -> dict[str, Any]:
    """One S2D round: a third of the channels split, the most negative index first."""
    proposals: list[dict[str, Any]] = [
        {
            "group": group,
            "channel": channel,
            "copies": 2,
            "index": -(rng.expovariate(4) ** 2) + 0.02,
            "score": None,
        }
        for group, width in widths.items()
        for channel in range(width)
    ]
    bar = sorted(proposal["index"] for proposal in proposals)[max(1, len(proposals) // 3) - 1]
    origin = {group: list(range(width)) for group, width in widths.items()}
    for proposal in proposals:
        proposal["gain"] = -0.01 * proposal["index"]
        proposal["selected"] = proposal["index"] <= bar
        if proposal["selected"]:
            origin[proposal["group"]].append(proposal["channel"])
    after = {group: len(channels) for group, channels in origin.items()}
    gain = sum(proposal["gain"] for proposal in proposals if proposal["selected"])
    loss = 0.9 / number
    return {
        "event": "edit",
        "job": job,
        "t": float(step),
        "round": number,
        "step": step,
        "widths_before": dict(widths),
        "widths_after": after,
        "params_before": cost(widths)[0],
        "params_after": cost(after)[0],
        "macs_before": cost(widths)[1],
        "macs_after": cost(after)[1],
        "loss_before": loss,
        "loss_after": loss - gain * rng.uniform(0.8, 1.1),
        "predicted_gain": gain,
        "proposals": proposals,
        "origin": origin,
    }


def make_job(
    arm: str, seed: int, widths: dict[str, int], rounds: int, epochs: int
) -> list[dict[str, Any]]:
    """All events of one job; the grown one splits after every phase but the last."""
    rng = random.Random(f"{arm}{seed}")
    job, events, step = f"{arm}-{seed}", [], 0
    best = CEILINGS[arm] + rng.gauss(0, 0.006)
    for phase in range(rounds + 1):
        for epoch in range(epochs):
            step += 45
            done = (phase * epochs + epoch + 1) / ((rounds + 1) * epochs)
            accuracy = best * (1 - 0.75 * 0.02**done) + rng.gauss(0, 0.006)
            params, macs = cost(widths)
            common = {"job": job, "t": float(step), "arm": arm, "seed": seed}
            events.append(
                {
                    "event": "epoch",
                    **common,
                    "round": phase + 1,
                    "epoch": epoch + 1,
                    "step": step,
                    "lr": 0.1,
                    "train_loss": 1 - accuracy,
                    "train_accuracy": accuracy,
                    "test_loss": 1.1 - accuracy,
                    "test_accuracy": accuracy,
                    "params": params,
                    "macs": macs,
                }
            )
        if arm == "grown" and phase < rounds:
            events.append(make_edit(rng, job, phase + 1, step, widths))
            widths = events[-1]["widths_after"]
    result = {"event": "result", **common, "test_accuracy": accuracy, "test_loss": 1.1 - accuracy}
    return [*events, {**result, "params": params, "macs": macs, "steps": step, "seconds": step / 9}]


def make_events(
    seeds: int = 3, widths: dict[str, int] = DIGITS, rounds: int = 3, epochs: int = 6
) -> list[dict[str, Any]]:
    """The events of a finished run of all arms."""
    events: list[dict[str, Any]] = []
    for seed in range(seeds):
        grown = make_job("grown", seed, widths, rounds, epochs)
        final = [event for event in grown if event["event"] == "edit"][-1]["widths_after"]
        factor = (cost(final)[0] / cost(widths)[0]) ** 0.5
        wide = {group: round(width * factor) for group, width in widths.items()}
        events += grown + make_job("seed", seed, widths, rounds, epochs)
        events += make_job("scratch", seed, final, rounds, epochs)
        events += make_job("wide", seed, wide, rounds, epochs)
    return events


def write_folder(folder: Path, events: Sequence[dict[str, Any]], finished: bool = True) -> Path:
    """A run folder with these events."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "command": "grow",
        "data": "digits",
        "model": "digits_net",
        "seeds": 3,
        "training": {"epochs": 6, "optimizer": "sgd", "lr": 0.1, "schedule": "cosine"},
        "rule": {"name": "top-fraction", "fraction": 0.35},
        "resume": None,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "versions.json", {"python": "3.11.9", "torch": "2.13.0", "ramify": "0.1"})
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "metrics.jsonl").write_text(lines)
    if finished:
        write_json(folder / "summary.json", {"rows": []})
    return folder


@pytest.fixture(scope="session")
def events() -> list[dict[str, Any]]:
    return make_events()


@pytest.fixture(scope="session")
def sized(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same run with two smaller sizes, cut and trained by a run of their own."""
    more = []
    for event in events:
        for arm, prefix in (("grown", "cut"), ("wide", "wide")):
            if event.get("arm") == arm and event["event"] in ("epoch", "result"):
                for size in (300, 150):
                    name = f"{prefix}-{size}"
                    own = {"arm": name, "job": f"{name}-{event['seed']}", "params": size - 1}
                    more.append(event | own | {"test_accuracy": event["test_accuracy"] - 0.1})
    return [*events, *more]


@pytest.fixture
def edits(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The edits of the first grown network."""
    return [event for event in events if event["event"] == "edit" and event["job"] == "grown-0"]


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Write a run folder anywhere: `write_run(folder, events, finished=True)`."""
    return write_folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder: `make_run(events, finished=True)`."""

    def make(events: Sequence[dict[str, Any]], finished: bool = True) -> Path:
        return write_folder(tmp_path / "run", events, finished)

    return make
