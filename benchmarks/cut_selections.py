"""What a cut keeps if several selections are measured, and if the first one is taken.

    python -m benchmarks.cut_selections [--tasks digits:resnet20 ...] [--seeds 0 ...]
        [--shares 0.5 ...] [--arms cut "first selection" ...] [--unseen] [--out FILE]

A task is a data set and a network: scikit-learn's digits, MNIST at 14×14 (`RAMIFY_DATA`; 6,000
training images), or a smooth function of four variables (4,000 training samples; R² instead of the
accuracy). Each network is trained, cut with 256 training samples (with `--unseen`: other ones),
measured on the test samples, and fine-tuned for two epochs. Arms: `cut` as it is, with
`balance=False` (the first selection) and with `balance=True` (several). A second table compares
test losses where the first selection takes at most 1 % of what the network has learned, by the rise
of the loss as a share of it. Rows are kept in FILE, so that an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ramify
from benchmarks.cut_expected import loss as cross_entropy
from benchmarks.growing_tasks import Images
from benchmarks.rows import add_rows, mean_and_error, read_rows
from ramify.cost import graph_cost
from ramify.data import load
from ramify.models import build
from ramify.probe.loss import mean_loss
from ramify.refit import cut
from ramify.refit.at_chance import constant_loss
from ramify.refit.selecting import HARMLESS
from ramify.train.epoch import evaluate

Row = dict[str, Any]
WIDTHS = {"digits_net": 24, "resnet20": 8, "mobilenet_v1": 32}
TASKS = (*(f"digits:{name}" for name in WIDTHS), "mnist14:resnet20", "mnist14:mobilenet_v1")
PERCEPTRONS: Mapping[str, tuple[int, ...]] = {
    "digits:perceptron": (64, 64, 64, 10),
    "smooth:perceptron": (4, 96, 96, 4),
    "smooth:bottleneck": (4, 128, 32, 128, 4),
}
ARMS: Mapping[str, bool | None] = {"cut": None, "first selection": False, "several": True}
EPOCHS = {"digits": 30, "mnist14": 8}  # of others, and of perceptrons: 60
RISES = (-math.inf, 0.1, 0.25, 1.0, math.inf)
"""The bounds of the second table: the rise of the loss, as a share of it."""
TUNED = 2  # epochs
SAMPLE = 256
KEY = ("task", "seed", "unseen", "share", "arm")


def data(name: str, seed: int = 0) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Training samples, their classes or targets, and test batches."""
    if name == "smooth":  # eight sines of random directions
        draw = torch.Generator().manual_seed(1000 + seed)
        directions, phases = torch.randn(8, 4, generator=draw), torch.rand(8, generator=draw)
        weights = torch.randn(8, 4, generator=draw)
        x = 2 * torch.rand(6000, 4, generator=draw) - 1
        y = torch.sin(x @ directions.t() + 6.28 * phases) @ weights
        y = (y - y.mean(0)) / y.std(0)
        return x[:4000], y[:4000], [(x[4000:], y[4000:])]
    if name == "digits":
        found = load("digits")
        return found.x_train, found.y_train, [(found.x_test, found.y_test)]
    images = Images()
    return images.x, images.y, list(images.test)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of classes, or the mean square of a regression, one number per sample."""
    if not batch[1].is_floating_point():
        return cross_entropy(model, batch)
    return (model(batch[0]) - batch[1]).square().mean(1)


def measured(net: nn.Module, test: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The mean loss and the accuracy, or R² of a regression."""
    [*_, (_, y)] = test
    if not y.is_floating_point():
        return evaluate(net, test)
    error = mean_loss(net, loss, test)
    return error, 1 - error / float(y.var(0).mean())


def network(task: str, shape: tuple[int, ...]) -> nn.Module:
    """The untrained network of a task."""
    if task not in PERCEPTRONS:
        name = task.split(":")[1]
        return build(name, dataset_shape=shape, classes=10, width=WIDTHS[name])
    layers: list[nn.Module] = [nn.Flatten()]
    for sizes in itertools.pairwise(PERCEPTRONS[task]):
        layers += [nn.Linear(*sizes), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


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
    setting: Row,
    shares: list[float],
    arms: list[str],
    done: Callable[[Row], bool],
    epochs: int | None = None,
) -> Iterator[Row]:
    """The rows that are not done, of a network that is trained for some epochs.

    Args:
        setting: the task, the seed, and whether the sample is unseen in training.
        shares: the shares of the MACs to cut to.
        arms: the names of the arms.
        done: whether a row is done.
        epochs: how long to train; by default as long as the task needs.

    Yields:
        The rows.
    """
    wanted: list[Row] = [
        {**setting, "share": share, "arm": arm} for share in shares for arm in arms
    ]
    wanted = [row for row in wanted if not done(row)]
    if not wanted:
        return
    task, seed = setting["task"], setting["seed"]
    source = task.split(":")[0]
    x, y, test = data(source, seed)
    torch.manual_seed(seed)
    net = network(task, tuple(x.shape[1:]))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    chosen, rest = order.split([SAMPLE, len(x) - SAMPLE])
    sample = [(x[part], y[part]) for part in chosen.split(64)]
    if setting["unseen"]:
        rest = rest.sort().values
        x, y = x[rest], y[rest]
    fitted(net, x, y, epochs or (60 if task in PERCEPTRONS else EPOCHS[source]), seed)
    full = 100 * measured(net, test)[1]
    start, chance = mean_loss(net, loss, sample), constant_loss(net, loss, sample)
    for row in wanted:
        model = copy.deepcopy(net)
        graph = ramify.trace(model, x[:1])
        budget = {"macs": row["share"] * graph_cost(graph).macs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # narrow layers, and networks at chance
            before = time.process_time()
            cut(graph, loss, sample, budget=budget, balance=ARMS[row["arm"]])
            seconds = time.process_time() - before
        after, accuracy = measured(model, test)
        rise = mean_loss(model, loss, sample) - start
        tuned = measured(fitted(model, x, y, TUNED, seed), test)
        yield {
            **row,
            "full": full,
            "seconds": seconds,
            "rise": rise / start,
            "harmless": rise <= HARMLESS * (chance - start),
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


def rises(rows: list[Row]) -> Iterator[str]:
    """How the test loss changes against the first selection where that takes little.

    The changes are relative; a seed's cuts in one range count once, with their mean.

    Yields:
        The lines of the table.
    """
    others = ("several", "cut")
    yield "| task, seeds | rise | cuts | first | several, % | `cut`, % | time: several | `cut` |"
    yield "|---|---|---|---|---|---|---|---|"
    by_cut: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        by_cut.setdefault(tuple(row[key] for key in KEY[:-1]), {})[row["arm"]] = row
    pairs = [(arms.pop("first selection", None), arms) for arms in by_cut.values()]
    small = [(first, arms) for first, arms in pairs if first and first["harmless"] and arms]
    name = lambda row: row["task"] + (", unseen" if row["unseen"] else "")  # noqa: E731
    for task in dict.fromkeys(name(first) for first, _ in small):
        for low, high in itertools.pairwise(RISES):
            own = [
                (first, arms)
                for first, arms in small
                if name(first) == task and low <= first["rise"] < high
            ]
            if not own:
                continue
            cells = [f"{statistics.mean(first['loss'] for first, _ in own):.5f}"]
            for other in others:
                seeds: dict[int, list[float]] = {}
                for first, arms in own:
                    if other in arms:
                        change = 100 * (arms[other]["loss"] / first["loss"] - 1)
                        seeds.setdefault(first["seed"], []).append(change)
                cells.append(mean_and_error([statistics.mean(v) for v in seeds.values()]))
            for other in others:
                times = [
                    arms[other]["seconds"] / first["seconds"]
                    for first, arms in own
                    if other in arms
                ]
                cells.append(f"× {statistics.mean(times):.1f}" if times else "–")
            count = len({first["seed"] for first, _ in own})
            rise = f"over {low:.0%}" if math.isinf(high) else f"to {high:.0%}"
            yield f"| {task}, {count} | {rise} | {len(own)} | {' | '.join(cells)} |"


def main() -> None:
    """Run what is not done, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = (*TASKS, *PERCEPTRONS)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=known)
    parser.add_argument("--arms", nargs="+", default=list(ARMS)[:2], choices=list(ARMS))
    parser.add_argument("--unseen", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25, 0.12])
    parser.add_argument("--out", type=Path, default=Path("runs/cut_selections.jsonl"))
    options = parser.parse_args()

    finished = {tuple(row[key] for key in KEY) for row in read_rows(options.out)}
    done = lambda row: tuple(row[key] for key in KEY) in finished  # noqa: E731
    for task in options.tasks:
        for seed in options.seeds:
            setting = {"task": task, "seed": seed, "unseen": options.unseen}
            for row in rows_of(setting, options.shares, options.arms, done):
                add_rows(options.out, [row])
                where = f"{task}, seed {seed}, {row['share']:.0%}, {row['arm']}"
                found = f"{row['accuracy']:.1f} %, fine-tuned {row['tuned']:.1f} %"
                print(f"{where}: {found}", flush=True)
    rows = read_rows(options.out)
    print(*table(rows), "", *rises(rows), sep="\n")


if __name__ == "__main__":
    main()
