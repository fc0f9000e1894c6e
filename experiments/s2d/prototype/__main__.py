"""The command; `python -m experiments.s2d.prototype --help`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from experiments.files import png, write
from experiments.s2d.prototype.figure import splits, tree
from experiments.s2d.prototype.study import TRIED, Settings, Task, grow, try_splits
from ramify.data import load


def options() -> argparse.ArgumentParser:
    """What the command takes."""
    usual = Settings()
    parser = argparse.ArgumentParser(prog="python -m experiments.s2d.prototype")
    parser.add_argument("--out", type=Path, default=Path("runs/s2d-prototype"), help="a folder")
    parser.add_argument("--prototypes", type=int, default=usual.prototypes, help="at the end")
    parser.add_argument("--epochs", type=int, default=usual.epochs, help="before each split")
    parser.add_argument("--seed", type=int, default=usual.seed, help="the random seed")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Grow the network, try every split of five, and write results.json and both pictures."""
    parser = options()
    chosen = parser.parse_args(arguments)
    if chosen.prototypes < TRIED:
        parser.error(f"--prototypes is at least {TRIED}, where every split is tried")
    torch.set_num_threads(chosen.threads)
    started, console = time.monotonic(), Console()
    settings = Settings(prototypes=chosen.prototypes, epochs=chosen.epochs, seed=chosen.seed)
    task = Task(load("mnist"), settings)
    grown = grow(task)
    trials = try_splits(task, grown.five)
    ends = {event["round"] + 1: event for event in grown.events if event["event"] == "epoch"}
    held = {
        "settings": asdict(settings),
        "seconds": time.monotonic() - started,
        "test_accuracy": {count: event["test_accuracy"] for count, event in ends.items()},
        "train_loss": {count: event["train_loss"] for count, event in ends.items()},
        "trials": [asdict(trial) for trial in trials],
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    write(chosen.out / "results.json", json.dumps(held, indent=1) + "\n")
    write(chosen.out / "tree.png", png(tree(grown), dpi=110))
    write(chosen.out / "splits.png", png(splits(grown, trials), dpi=110))
    console.print(held["test_accuracy"], held["trials"])
    console.print(f"results.json, tree.png and splits.png are in {chosen.out}")


if __name__ == "__main__":
    main()
