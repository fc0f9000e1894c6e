"""The command line; see `python -m experiments.s2d.prototype --help`."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.files import png, show, write
from experiments.resume import stages
from experiments.s2d.prototype.figure import splits, tree
from experiments.s2d.prototype.study import (
    TRIED,
    Settings,
    Task,
    Trial,
    correlation,
    grown_of,
    try_splits,
)
from ramify.data import Dataset, load


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
    parser.add_argument("--seed", type=int, default=usual.seed, help="the first random seed")
    parser.add_argument(
        "--seeds", type=int, default=1, help=f"seeds in which the splits of {TRIED} are tried"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Grow the network, try each split of five prototypes, and write the results."""
    parser = options()
    chosen = parser.parse_args(arguments)
    if chosen.prototypes < TRIED:
        parser.error(f"--prototypes is at least {TRIED}, where every split is tried")
    if chosen.seeds < 1:
        parser.error("--seeds is at least 1")
    torch.set_num_threads(chosen.threads)
    settings = Settings(prototypes=chosen.prototypes, epochs=chosen.epochs, seed=chosen.seed)
    dataset, kept = load("mnist"), chosen.out / "stages"
    task, stage = Task(dataset, settings), stages(kept, settings)
    grown = grown_of(task, stage)
    trials = {settings.seed: try_splits(task, grown.five, stage)}
    for seed in range(settings.seed + 1, settings.seed + chosen.seeds):
        trials[seed] = _trials_of(dataset, replace(settings, prototypes=TRIED, seed=seed), kept)
    ends = {event["round"] + 1: event for event in grown.events if event["event"] == "epoch"}
    held = {
        "settings": asdict(settings),
        "test_accuracy": {count: event["test_accuracy"] for count, event in ends.items()},
        "train_loss": {count: event["train_loss"] for count, event in ends.items()},
        "trials": {seed: [asdict(trial) for trial in of_seed] for seed, of_seed in trials.items()},
        "correlation": {seed: correlation(of_seed) for seed, of_seed in trials.items()},
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    write(chosen.out / "results.json", json.dumps(held, indent=1) + "\n")
    write(chosen.out / "tree.png", png(tree(grown), dpi=110))
    write(chosen.out / "splits.png", png(splits(grown, trials), dpi=110))
    show(chosen.out, page(held))
    Console().print(f"results.md, results.json, tree.png and splits.png are in {chosen.out}")


def _trials_of(dataset: Dataset, settings: Settings, kept: Path) -> list[Trial]:
    """The splits of five prototypes in a run that ends there."""
    task, stage = Task(dataset, settings), stages(kept, settings)
    return try_splits(task, grown_of(task, stage).five, stage)


def page(held: dict[str, Any]) -> str:
    """The results as Markdown.

    Args:
        held: the contents of results.json.

    Returns:
        A table of the sizes, and one of the splits of five prototypes of every seed.
    """
    lines = ["| prototypes | training loss | test accuracy |", "|---|---|---|"]
    lines += [
        f"| {count} | {loss:.3f} | {100 * held['test_accuracy'][count]:.1f} % |"
        for count, loss in held["train_loss"].items()
    ]
    heads = ["seed", *(f"split {number + 1}" for number in range(TRIED)), "correlation"]
    lines += ["", "Eigenvalue, and decrease of the loss after training on, by split:", ""]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for seed, trials in held["trials"].items():
        cells = [f"{trial['index']:.4f}, {trial['decrease']:.4f}" for trial in trials]
        lines.append(f"| {seed} | " + " | ".join(cells) + f" | {held['correlation'][seed]:+.2f} |")
    found = list(held["correlation"].values())
    if len(found) > 1:
        error = statistics.stdev(found) / len(found) ** 0.5
        lines += [
            "",
            f"Correlation of −eigenvalue and decrease: {statistics.fmean(found):.2f} ± {error:.2f} "
            f"(standard error), above 0 in {sum(one > 0 for one in found)} of {len(found)} seeds.",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
