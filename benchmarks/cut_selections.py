"""What a cut keeps if several selections are measured, and if the first one is taken.

    python -m benchmarks.cut_selections [--tasks digits:resnet20 ...] [--seeds 0 ...]
        [--shares 0.5 ...] [--out FILE]

A task is a data set and a network: scikit-learn's digits, or MNIST at 14×14 (`RAMIFY_DATA`; 6,000
training images). Each network is trained, cut with 256 training images, measured on the test
images, and fine-tuned for two epochs. Arms: `cut` as it is, and with `balance=False`. Rows are kept
in FILE, so that an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ramify
from benchmarks.cut_expected import loss
from benchmarks.growing_tasks import Images
from benchmarks.rows import add_rows, mean_and_error, read_rows
from ramify.cost import graph_cost
from ramify.data import load
from ramify.models import build
from ramify.refit import cut
from ramify.train.epoch import evaluate

Row = dict[str, Any]
WIDTHS = {"digits_net": 24, "resnet20": 8, "mobilenet_v1": 32}
TASKS = (*(f"digits:{name}" for name in WIDTHS), "mnist14:resnet20", "mnist14:mobilenet_v1")
ARMS: Mapping[str, bool | None] = {"cut": None, "first selection": False}
EPOCHS = {"digits": 30, "mnist14": 8}
TUNED = 2  # epochs
SAMPLE = 256
KEY = ("task", "seed", "share", "arm")


def data(name: str) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Training images, their classes, and test batches."""
    if name == "digits":
        found = load("digits")
        return found.x_train, found.y_train, [(found.x_test, found.y_test)]
    images = Images()
    return images.x, images.y, list(images.test)


def fitted(net: nn.Module, x: Tensor, y: Tensor, epochs: int, seed: int) -> nn.Module:
    """Train by AdamW, with a rate that falls to 0 by a half-cosine."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    steps = epochs * math.ceil(len(x) / 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for _ in range(epochs):
        for part in torch.randperm(len(x), generator=order).split(64):
            optimizer.zero_grad()
            loss(net, (x[part], y[part])).mean().backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def rows_of(
    task: str,
    seed: int,
    shares: list[float],
    done: Callable[[Row], bool],
    epochs: int | None = None,
) -> Iterator[Row]:
    """The rows that are not done, of a network that is trained for some epochs."""
    wanted: list[Row] = [
        {"task": task, "seed": seed, "share": share, "arm": arm} for share in shares for arm in ARMS
    ]
    wanted = [row for row in wanted if not done(row)]
    if not wanted:
        return
    source, name = task.split(":")
    x, y, test = data(source)
    torch.manual_seed(seed)
    shape = tuple(x.shape[1:])
    net = build(name, dataset_shape=shape, classes=10, width=WIDTHS[name])
    fitted(net, x, y, epochs or EPOCHS[source], seed)
    full = 100 * evaluate(net, test)[1]
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:SAMPLE]
    sample = [(x[part], y[part]) for part in chosen.split(64)]
    for row in wanted:
        model = copy.deepcopy(net)
        graph = ramify.trace(model, x[:1])
        budget = {"macs": row["share"] * graph_cost(graph).macs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # narrow layers, and networks at chance
            cut(graph, loss, sample, budget=budget, balance=ARMS[row["arm"]])
        after, accuracy = evaluate(model, test)
        tuned = evaluate(fitted(model, x, y, TUNED, seed), test)
        yield {
            **row,
            "full": full,
            "accuracy": 100 * accuracy,
            "loss": after,
            "tuned": 100 * tuned[1],
            "tuned_loss": tuned[0],
        }


def table(rows: list[Row]) -> Iterator[str]:
    """Means and standard errors; the difference is between the two arms of each seed."""
    yield (
        "| task, seeds | MACs left | first selection | `cut` | difference "
        "| fine-tuned: first | `cut` | difference |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for task, share in dict.fromkeys((row["task"], row["share"]) for row in rows):
        own = [row for row in rows if (row["task"], row["share"]) == (task, share)]
        cells = []
        for column in ("accuracy", "tuned"):
            first, best = (
                {row["seed"]: row[column] for row in own if row["arm"] == arm}
                for arm in ("first selection", "cut")
            )
            pairs = [best[seed] - first[seed] for seed in best if seed in first]
            cells += [mean_and_error(list(arm.values())) for arm in (first, best)]
            cells.append(mean_and_error(pairs))
        full = statistics.mean({row["seed"]: row["full"] for row in own}.values())
        seeds = len({row["seed"] for row in own})
        yield f"| {task} ({full:.1f} %), {seeds} | {share:.0%} | {' | '.join(cells)} |"


def main() -> None:
    """Run what is not done, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25, 0.12])
    parser.add_argument("--out", type=Path, default=Path("runs/cut_selections.jsonl"))
    options = parser.parse_args()

    finished = {tuple(row[key] for key in KEY) for row in read_rows(options.out)}
    done = lambda row: tuple(row[key] for key in KEY) in finished  # noqa: E731
    for task in options.tasks:
        for seed in options.seeds:
            for row in rows_of(task, seed, options.shares, done):
                add_rows(options.out, [row])
                where = f"{task}, seed {seed}, {row['share']:.0%}, {row['arm']}"
                found = f"{row['accuracy']:.1f} %, fine-tuned {row['tuned']:.1f} %"
                print(f"{where}: {found}", flush=True)
    print(*table(read_rows(options.out)), sep="\n")


if __name__ == "__main__":
    main()
