"""Accuracy against size: one training run for all sizes compared with one run for each size.

    python -m benchmarks.curve [--data mnist14 digits] [--seeds 0 1 2 3 4] [--epochs 72]
        [--tuning 8] [--sizes 4000 2400 1400 800 500] [--out FILE]

One run grows a network from four channels per layer to the largest of `--sizes` (parameters) in
`--epochs` epochs. It then cuts the network to one size after another, and fine-tunes after each cut
for `--tuning` epochs with the grown network as the teacher. Another run does the same with a
uniformly wide network. For comparison, a uniformly wide network of each size is trained from
scratch for `--epochs` epochs, and for `--tuning` epochs, the cost of a size in the single run.
MNIST is that of `benchmarks.growing`; the digits are those of scikit-learn. Training costs are MACs
of the forward passes of one sample over all epochs. Rows are kept in FILE, so that an interrupted
run resumes; the table shows all rows in it.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ramify
from benchmarks.growing import SETTINGS
from benchmarks.growing_tasks import NARROW, Batch, Task, mnist14
from benchmarks.rows import add_rows, mean_and_error, read_rows
from ramify.cost import graph_cost
from ramify.data import batches, load
from ramify.methods.registry import method_named
from ramify.train.epoch import Training, cross_entropy
from ramify.train.fresh_networks import wide
from ramify.train.grow import grow
from ramify.train.loop import train
from ramify.train.shrink import shrink

Row = dict[str, Any]
METHOD, ROUNDS, SAMPLE = "gauss-newton", 20, 1024
GROWN, WIDE = "one run", "one run, uniform"


def digits(seed: int) -> Task:
    """The digits of scikit-learn, split by the seed, and the network that growing starts with."""
    data = load("digits", seed)

    def epochs(seed: int) -> Callable[[int], Sequence[Batch]]:
        return lambda epoch: list(batches(data, 64, seed, epoch))

    return Task(
        NARROW,
        data.x_train[:1],
        epochs,
        [(data.x_test, data.y_test)],
        cross_entropy,
        total=72,
        every=3,
        budget=4000,
        weight_decay=5e-3,
    )


TASKS: dict[str, Callable[[int], Task]] = {"mnist14": lambda seed: mnist14(), "digits": digits}


def _grown(task: Task, seed: int, options: argparse.Namespace) -> tuple[nn.Module, float]:
    """A network that grew to the largest size, and the MACs of its training."""
    torch.manual_seed(seed)
    model, every = task.seed_network(), max(2, options.epochs // ROUNDS)
    settings = SETTINGS[METHOD] | {"epochs": max(1, every // 2)}
    done = grow(
        model,
        task.example,
        task.loss,
        task.epochs(seed),
        method=method_named(METHOD, seed=seed, settings=settings),
        rule=ramify.TopFraction(0.5, per_group=True),
        training=Training(every, weight_decay=task.weight_decay, span="run"),
        rounds=options.epochs // every - 1,
        budget={"params": options.sizes[0]},
        rescale=True,
    )
    return model, sum(event["macs"] for event in done.history if event["event"] == "epoch")


def _wide(task: Task, seed: int, size: int, epochs: int) -> tuple[nn.Module, float]:
    """A uniformly wide network of a size, trained from scratch, and the MACs of its training."""
    torch.manual_seed(seed + 1000)
    model = wide(task.seed_network, task.example, size)
    training = Training(epochs, weight_decay=task.weight_decay)
    train(model, task.example, task.loss, task.epochs(seed), training=training)
    return model, _macs(model, task) * epochs


def one_run(task: Task, seed: int, arm: str, options: argparse.Namespace) -> list[Row]:
    """Train a network of the largest size, and cut it to one size after another.

    Args:
        task: the data.
        seed: of weights and order.
        arm: `GROWN` or `WIDE`.
        options: of the command.

    Returns:
        A row for each size.
    """
    if arm == GROWN:
        model, spent = _grown(task, seed, options)
    else:
        model, spent = _wide(task, seed, options.sizes[0], options.epochs)
    rows = [_row(task, model, seed, options.sizes[0], spent)]
    teacher = copy.deepcopy(model)
    first = list(task.epochs(seed + 100)(0))
    sample = first[: SAMPLE // len(first[0][1])]
    for size in options.sizes[1:]:
        training = Training(options.tuning, lr=0.05, weight_decay=task.weight_decay, warmup=0.1)
        shrink(
            model,
            task.example,
            task.loss,
            task.epochs(seed + 100),
            budget={"params": size},
            calibration=sample,
            training=training,
            teacher=teacher,
        )
        # A step of fine-tuning also has a forward pass of the teacher.
        own = _macs(model, task) * options.tuning + rows[0]["macs"] * options.tuning / 3
        rows.append(_row(task, model, seed, size, own))
    return [row | {"arm": arm} for row in rows]


def fresh(task: Task, seed: int, size: int, epochs: int) -> Row:
    """A uniformly wide network of a size, trained from scratch."""
    model, spent = _wide(task, seed, size, epochs)
    return _row(task, model, seed, size, spent)


def _macs(model: nn.Module, task: Task) -> int:
    return graph_cost(ramify.trace(model, task.example)).macs


def _row(task: Task, model: nn.Module, seed: int, size: int, spent: float) -> Row:
    params = sum(parameter.numel() for parameter in model.parameters())
    costs = {"params": params, "macs": _macs(model, task), "spent": spent}
    return {"seed": seed, "size": size} | costs | task.score(model)


def table(rows: Sequence[Row]) -> str:
    """Means and standard errors over seeds as Markdown, and what all sizes took together."""
    arms = sorted({row["arm"] for row in rows}, reverse=True)
    lines = [["data", "parameters", *arms]]
    lines.append(["---"] * len(lines[0]))
    for data in sorted({row["data"] for row in rows}):
        own = [row for row in rows if row["data"] == data]
        for size in sorted({row["size"] for row in own}, reverse=True):
            cells = [
                [r["accuracy"] for r in own if (r["size"], r["arm"]) == (size, a)] for a in arms
            ]
            lines.append([data, str(size), *(mean_and_error(cell) for cell in cells)])
        spent = [
            sum(r["spent"] for r in own if r["arm"] == a)
            / max(1, len({r["seed"] for r in own if r["arm"] == a}))
            for a in arms
        ]
        unit = spent[arms.index(GROWN)] or math.nan
        lines.append([data, "training MACs of all", *(f"{cost / unit:.2f}" for cost in spent)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=72)
    parser.add_argument("--tuning", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4000, 2400, 1400, 800, 500])
    parser.add_argument("--out", type=Path, default=Path("runs/curve.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(options.out)
    for data in options.data:
        for seed in options.seeds:
            task = TASKS[data](seed)
            for new in _missing(rows, task, data, seed, options):
                rows += new
                add_rows(options.out, new)
    print(table(rows))


def _missing(
    rows: Sequence[Row], task: Task, data: str, seed: int, options: argparse.Namespace
) -> Any:
    """The rows that a file does not have yet, one at a time."""
    done = {(row["arm"], row["size"]) for row in rows if (row["data"], row["seed"]) == (data, seed)}
    key = {"data": data, "epochs": options.epochs, "tuning": options.tuning}
    for arm in (GROWN, WIDE):
        if (arm, options.sizes[0]) not in done:
            yield [key | row for row in one_run(task, seed, arm, options)]
    for size in options.sizes:
        for epochs in (options.epochs, options.tuning):
            arm = f"from scratch, {epochs} epochs"
            if (arm, size) not in done:
                yield [key | fresh(task, seed, size, epochs) | {"arm": arm}]


if __name__ == "__main__":
    main()
