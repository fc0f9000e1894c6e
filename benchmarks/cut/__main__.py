"""`ramify.cut` and Torch-Pruning on EfficientNet-Lite0: right after the cut, and fine-tuned.

    python -m benchmarks.cut WEIGHTS DATA [--arms cut ...] [--shares 0.5 ...] [--seeds 0 ...]
        [--lr 0.01 ...] [--out FILE] [--figure FILE]

WEIGHTS is a safetensors file of the fine-tuned network, written by `python -m
benchmarks.cut.train`; DATA is a folder with train/CLASS and test/CLASS (`RAMIFY_DATA/caltech20`).
Install the network with `pip install --no-deps efficientnet_lite_pytorch` and the peer with `pip
install --no-deps torch-pruning==1.6.1`. A seed determines the calibration sample (256 training
images without augmentation) and the order of fine-tuning. Without `--lr` nothing is trained. Rows
are kept in FILE, so that an interrupted run resumes; the table shows all rows in it.
"""

from __future__ import annotations

import argparse
import copy
import json
import operator
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.cut.arms import ARMS, cost, pruned
from benchmarks.cut.figure import draw
from benchmarks.cut.network import (
    epoch,
    halves,
    images,
    loss,
    network,
    parts,
    sample,
    smoothed,
    tested,
)
from benchmarks.cut.tuning import Recipe, Remembered, tuned
from benchmarks.rows import add_rows, read_rows
from ramify.train.norm_statistics import recompute_statistics

Row = dict[str, Any]
KEY = ("arm", "share", "seed", "recipe", "held_out")
"""The entries that identify a row."""


class Bench:
    """The network, the images, and the finished rows.

    Args:
        options: the options of the command.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._file: Path = options.out
        self.rows: list[Row] = read_rows(self._file)
        self._train, self._test = (images(options.data / name) for name in ("train", "test"))
        if options.held_out:
            self._train, self._test = halves(self._train, options.held_out)
        self._teacher = Remembered(network(options.weights))
        self._example = next(parts(self._test))[0][:1]
        self._full = cost(network(options.weights), self._example)

    def run(self, arm: str, share: float, seed: int) -> Iterator[Row]:
        """Cut a network, and fine-tune copies of it by each recipe; finished rows are skipped."""
        wanted = [
            recipe for recipe in _recipes(self._options) if not self._done(arm, share, seed, recipe)
        ]
        if not wanted:
            return
        began = time.process_time()
        calibration = sample(self._train, seed)
        model = pruned(
            arm, network(self._options.weights), self._example, loss, calibration, share
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        seconds = time.process_time() - began
        for recipe in wanted:
            began, own = time.process_time(), copy.deepcopy(model)
            if recipe is not None:
                tuned(own, smoothed, lambda n: epoch(self._train, (seed, n)), recipe, self._teacher)
                seconds = time.process_time() - began
            yield self._row(own, arm, share, seed, recipe, seconds)

    def _row(
        self,
        model: nn.Module,
        arm: str,
        share: float,
        seed: int,
        recipe: Recipe | None,
        seconds: float,
    ) -> Row:
        """Test without and with recomputed norm statistics, and keep the row."""
        as_it_is, _ = tested(model, self._test)
        recompute_statistics(model, loss, sample(self._train, seed, len(self._train[1])))
        accuracy, mean = tested(model, self._test)
        left = cost(model, self._example)
        row = {
            "arm": arm,
            "share": share,
            "seed": seed,
            "recipe": recipe and asdict(recipe),
            "held_out": self._options.held_out,
            "accuracy": accuracy,
            "loss": mean,
            "as_it_is": as_it_is,
            "macs": left.macs / self._full.macs,
            "params": left.params / self._full.params,
            "seconds": seconds,
        }
        self.rows.append(row)
        add_rows(self._file, [row])
        return row

    def full_accuracy(self) -> float:
        """Test accuracy of the network before any cut, in percent."""
        return tested(network(self._options.weights), self._test)[0]

    def _done(self, arm: str, share: float, seed: int, recipe: Recipe | None) -> bool:
        wanted = (arm, share, seed, recipe and asdict(recipe), self._options.held_out)
        return any(tuple(row[name] for name in KEY) == wanted for row in self.rows)


def _recipes(options: argparse.Namespace) -> list[Recipe | None]:
    """None (no training), and the recipe at each learning rate."""
    recipe = Recipe(epochs=options.epochs)
    if options.untaught:
        recipe = replace(recipe, taught=0.0)
    return [None, *(replace(recipe, lr=lr) for lr in options.lr)]


def table(rows: list[Row]) -> str:
    """Means and spreads over seeds as Markdown."""
    heads = ["arm", "MACs", "parameters", "fine-tuned", "seeds", "accuracy"]
    heads += ["statistics as they are", "test loss", "seconds"]
    lines = [heads, ["---"] * len(heads)]
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = (row["held_out"], -row["share"], _short(row["recipe"]), row["arm"])
        cells.setdefault(key, []).append(row)
    for (held, _, recipe, arm), own in sorted(cells.items(), key=operator.itemgetter(0)):
        numbers = ("macs", "params", "accuracy", "as_it_is", "loss", "seconds")
        mean = {name: statistics.fmean(row[name] for row in own) for name in numbers}
        each = [row["accuracy"] for row in own]
        lines.append(
            [
                arm,
                f"{100 * mean['macs']:.1f} %",
                f"{100 * mean['params']:.1f} %",
                recipe + (" (images held out)" if held else ""),
                str(len(own)),
                f"{mean['accuracy']:.1f}"
                + (f" ± {statistics.stdev(each):.1f}" if len(own) > 1 else ""),
                f"{mean['as_it_is']:.1f}",
                f"{mean['loss']:.3f}",
                f"{mean['seconds']:.0f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _short(recipe: Row | None) -> str:
    """A recipe as the text of a table cell."""
    if recipe is None:
        return "no"
    taught = "labels" if not recipe["taught"] else "taught"
    return f"{recipe['epochs']} epochs, {taught}, rate {recipe['lr']}"


def main() -> None:
    """Run the arms and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--arms", nargs="+", default=["cut"], choices=ARMS)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5, 0.3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lr", type=float, nargs="*", default=[], help="rates to tune at")
    parser.add_argument("--epochs", type=int, default=2, help="of tuning")
    parser.add_argument("--untaught", action="store_true", help="tune on the labels alone")
    parser.add_argument(
        "--held-out", type=int, default=0, help="training images to test on in place of the others"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/cut.jsonl"))
    parser.add_argument("--figure", type=Path, help="a picture of all rows, a PNG file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options)
    for share in options.shares:
        for seed in options.seeds:
            for arm in options.arms:
                for row in bench.run(arm, share, seed):
                    print(json.dumps(row), flush=True)
    print(table(bench.rows))
    if options.figure is not None:
        draw(bench.rows, bench.full_accuracy(), options.figure)


if __name__ == "__main__":
    main()
