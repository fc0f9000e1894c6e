"""The command line; see `python -m experiments.s2d.prototype --help`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.files import png, show, write
from experiments.resume import stages
from experiments.s2d.prototype.figure import splits, tree
from experiments.s2d.prototype.study import TRIED, Settings, Task, grown_of, try_splits
from ramify.data import load


def options() -> argparse.ArgumentParser:
    """The command-line options."""
    usual = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.s2d.prototype",
        description="Grow prototypes of MNIST. "
        "Finished parts are kept in the folder; repeat the command to resume.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/s2d-prototype"), help="output folder"
    )
    parser.add_argument(
        "--prototypes", type=int, default=usual.prototypes, help="final number of prototypes"
    )
    parser.add_argument("--epochs", type=int, default=usual.epochs, help="epochs before each split")
    parser.add_argument("--seed", type=int, default=usual.seed, help="the random seed")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Grow the network, try each split of five prototypes, and write the results."""
    parser = options()
    chosen = parser.parse_args(arguments)
    if chosen.prototypes < TRIED:
        parser.error(f"--prototypes is at least {TRIED}, where every split is tried")
    torch.set_num_threads(chosen.threads)
    settings = Settings(prototypes=chosen.prototypes, epochs=chosen.epochs, seed=chosen.seed)
    task = Task(load("mnist"), settings)
    stage = stages(chosen.out / "stages", settings)
    grown = grown_of(task, stage)
    trials = try_splits(task, grown.five, stage)
    ends = {event["round"] + 1: event for event in grown.events if event["event"] == "epoch"}
    held = {
        "settings": asdict(settings),
        "test_accuracy": {count: event["test_accuracy"] for count, event in ends.items()},
        "train_loss": {count: event["train_loss"] for count, event in ends.items()},
        "trials": [asdict(trial) for trial in trials],
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    write(chosen.out / "results.json", json.dumps(held, indent=1) + "\n")
    write(chosen.out / "tree.png", png(tree(grown), dpi=110))
    write(chosen.out / "splits.png", png(splits(grown, trials), dpi=110))
    show(chosen.out, page(held))
    Console().print(f"results.md, results.json, tree.png and splits.png are in {chosen.out}")


def page(held: dict[str, Any]) -> str:
    """The results as Markdown.

    Args:
        held: the contents of results.json.

    Returns:
        A table of the sizes, and one of the splits of five prototypes.
    """
    lines = ["| prototypes | training loss | test accuracy |", "|---|---|---|"]
    lines += [
        f"| {count} | {loss:.3f} | {100 * held['test_accuracy'][count]:.1f} % |"
        for count, loss in held["train_loss"].items()
    ]
    lines += ["", "| split of five | eigenvalue | decrease after training |", "|---|---|---|"]
    lines += [
        f"| {trial['channel']} | {trial['index']:.4f} | {trial['decrease']:.4f} |"
        for trial in held["trials"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
