"""Grown networks, their shapes trained from scratch, cut networks and uniformly wide networks.

    python -m benchmarks.growing [--task mnist14|resnet20|vgg19|resnet20-16|vgg19-16|uneven-16]
        [--arms uniform random ...] [--seeds 0 1 2 3 4] [--every 3] [--total 72] [--budget 4000]
        [--macs 4000000] [--fraction 0.5] [--per-layer] [--grown-only] [--out FILE]

`mnist14`: MNIST from the folder that RAMIFY_DATA names, averaged over 2×2 pixels, with 6,000
training images and all 10,000 test images; the digits network grows from four channels per layer to
4,000 parameters in 72 epochs. `resnet20` and `vgg19`: all images of CIFAR-10, from 4 channels to
100,000 parameters and from 16 to 250,000, in 30 epochs. `resnet20-16` and `vgg19-16`: the same with
images averaged over 2×2 pixels after augmentation, in a third of the time. `uneven-16`: a VGG of
six layers of 2 to 16 channels, drawn anew for each seed, from 2,000 to 6,000 parameters to 12,000,
in 12 epochs of the same images; here the network as it comes has the wrong shape.

A grown network is edited every `--every` epochs until it has `--budget` parameters, and then trains
until epoch `--total`. Its shape, and a uniformly wide network with as many parameters, are trained
from scratch for as many epochs; `--grown-only` leaves the former out. `cut` trains a uniformly wide
network with twice the parameters for a third of the epochs, cuts it, and fine-tunes it for a fifth,
at about the same training cost.
`s3d:C` is S3D with another bound c on its outgoing weights (1.3 by default), and `s3d:knapsack`
splits into two to four copies, chosen by a knapsack in three rounds within the budget.
`METHOD:bottlenecks` doubles the layers whose channels are worth most, by the method's edits.
`--macs` bounds the multiply-accumulates of grown networks as well as their parameters.

Rows are kept in FILE and checkpoints next to it, so that an interrupted run resumes; the table
shows all rows in it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ramify
from benchmarks.growing_tasks import SIZE, TASKS, Task
from benchmarks.rows import add_rows, mean_and_error, read_rows
from ramify.methods import Method
from ramify.methods.registry import method_named
from ramify.store.model import recipe_of
from ramify.train.epoch import Training
from ramify.train.fresh_networks import scratch, wide
from ramify.train.grow import grow
from ramify.train.loop import Grown, train
from ramify.train.shrink import SAMPLES, shrink

Row = dict[str, Any]
STEP = {"step": 0.1, "unit": "kernel"}
SETTINGS: dict[str, dict[str, Any]] = {
    "s2d": STEP,
    "s3d": STEP | {"signed": 1.3},
    "random": STEP,
    "gauss-newton": {"epochs": 2, "curvature": "fisher"},
}
"""Arguments of methods that differ from their defaults."""
KNAPSACK = 3  # rounds, as many as the others need
LEARNING = ("gauss-newton",)  # methods that learn on all of the data


def grown(
    task: Task, arm: str, seed: int, options: argparse.Namespace, place: Path
) -> tuple[nn.Module, Row]:
    """A grown network, and the result of each edit."""
    torch.manual_seed(seed)
    model = task.seed_network()
    method, rule, rounds = _way(arm, seed, options)
    done = grow(
        model,
        task.example,
        task.loss,
        task.epochs(seed),
        method=method,
        rule=rule,
        training=Training(
            options.every,
            weight_decay=task.weight_decay,
            span="run",
            total_epochs=options.total,
        ),
        rounds=rounds,
        budget={"params": options.budget} | ({"macs": options.macs} if options.macs else {}),
        probe=None if arm.partition(":")[0] in LEARNING else task.probe(seed),
        rescale=not options.plain,
        checkpoint=place / "grown.checkpoint",
        log=_say(arm, seed),
    )
    edits = [event for event in done.history if event["event"] == "edit"]
    keys = ("expected_gain", "measured_gain", "loss_before", "loss_after", "step_factor")
    row = {"edits": [{key: edit[key] for key in keys} for edit in edits]}
    return model, row | _shape(done)


def _way(
    arm: str, seed: int, options: argparse.Namespace
) -> tuple[Method, ramify.select.Rule, int]:
    """The method of an arm, what selects among its proposals, and how often it may do so."""
    name, _, kind = arm.partition(":")
    settings = dict(SETTINGS.get(name, {}))
    if "epochs" in settings:
        settings["epochs"] = min(settings["epochs"], options.every)
    rule: ramify.select.Rule
    rule = ramify.TopFraction(options.fraction, per_group=options.per_layer)
    rounds = options.total // options.every - 1
    if kind == "knapsack":
        settings |= {"copies": (2, 3, 4), "best_of_each": True}
        rule, rounds = ramify.select.BudgetKnapsack({"params": options.budget}), KNAPSACK
    elif kind == "bottlenecks":
        chosen = ramify.Bottlenecks(method_named(name, seed=seed, settings=settings))
        return chosen, ramify.TopFraction(1.0, per_group=True), rounds
    elif kind:
        settings["signed"] = float(kind)
    return method_named(name, seed=seed, settings=settings), rule, rounds


def wide_one(task: Task, seed: int, params: int, epochs: int, place: Path) -> tuple[nn.Module, Row]:
    """A uniformly wide network, trained from scratch."""
    torch.manual_seed(seed)
    model = wide(task.seed_network, task.example, params)
    return model, _shape(fresh(task, model, seed, epochs, place / f"wide-{params}.checkpoint"))


def cut_one(
    task: Task, seed: int, options: argparse.Namespace, place: Path
) -> tuple[nn.Module, Row]:
    """A network of twice the parameters, trained for a third of the epochs, cut and fine-tuned."""
    epochs, tuned = max(1, options.total // 3), max(1, options.total // 5)
    model, first = wide_one(task, seed, 2 * options.budget, epochs, place)
    order = task.epochs(seed + 100)
    sample = [(x, y) for (x, y), _ in zip(order(0), range(SAMPLES // SIZE), strict=False)]
    done = shrink(
        model,
        task.example,
        task.loss,
        order,
        budget={"params": options.budget},
        calibration=sample,
        training=Training(tuned, lr=0.05, weight_decay=task.weight_decay, warmup=0.1),
        checkpoint=place / "cut.checkpoint",
        log=_say("cut", seed),
    )
    row = _shape(done)
    # A step of fine-tuning also has a forward pass of the teacher.
    spent = first["training_macs"] * (epochs + tuned / 3) + row["training_macs"] * tuned
    return model, row | {"training_macs": spent / options.total}


def fresh(task: Task, model: nn.Module, seed: int, total: int, checkpoint: Path) -> Grown:
    """Train a network from scratch."""
    training = Training(total, weight_decay=task.weight_decay)
    return train(
        model,
        task.example,
        task.loss,
        task.epochs(seed),
        training=training,
        checkpoint=checkpoint,
        log=_say(checkpoint.stem, seed),
    )


def _shape(done: Grown) -> Row:
    macs = [event["macs"] for event in done.history if event["event"] == "epoch"]
    widths = [group.width for group in done.graph.groups if group.can_split]
    return {"widths": widths, "training_macs": statistics.mean(macs)}


def _say(arm: str, seed: int) -> Callable[[Row], None]:
    """What prints a line on each epoch."""

    def line(event: Row) -> None:
        if event["event"] == "epoch":
            loss = event["train_loss"]
            print(
                f"{arm}, seed {seed}: {event['params']:,} parameters, loss {loss:.3f}", flush=True
            )

    return line


def run(task: Task, arm: str, seed: int, options: argparse.Namespace, place: Path) -> Row:
    """Run one arm with one seed; checkpoints are in the folder `place`."""
    place.mkdir(parents=True, exist_ok=True)
    if arm == "uniform":
        model, row = wide_one(task, seed, options.budget, options.total, place)
        row |= {"edits": [], "scratch": task.score(model)}
    elif arm == "cut":
        model, row = cut_one(task, seed, options, place)
        row |= {"edits": [], "grown": task.score(model)}
    else:
        model, row = grown(task, arm, seed, options, place)
        row["grown"] = task.score(model)
        if not options.grown_only:
            torch.manual_seed(seed + 1000)
            again = scratch(task.seed_network, recipe_of(model))
            fresh(task, again, seed, options.total, place / "scratch.checkpoint")
            row["scratch"] = task.score(again)
    params = sum(parameter.numel() for parameter in model.parameters())
    shutil.rmtree(place)
    return row | {"params": params}


KEY = ("task", "arm", "seed", "every", "total", "budget", "fraction", "plain", "per_layer", "macs")
"""The entries that identify a row."""


def table(rows: Sequence[Row]) -> str:
    """Means and standard errors over seeds as Markdown."""
    heads = ["task", "arm", "edits every", "seeds", "grown, %", "its shape from scratch, %"]
    heads += ["training MACs", "parameters", "expected over measured", "most a loss rose by"]
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    every = {_kind(row) for row in rows}
    for kind in sorted(every, key=str):
        own = [row for row in rows if _kind(row) == kind]
        edits = [edit for row in own for edit in row["edits"]]
        name = own[0]["arm"] + (", not rescaled" if own[0]["plain"] else "")
        name += ", every layer alike" if own[0]["per_layer"] else ""
        name += f", at most {own[0]['macs']:,} MACs" if own[0].get("macs") else ""
        cells = [own[0]["task"], name, f"{own[0]['every']} epochs", str(len(own))]
        for part in _PARTS:
            cells.append(mean_and_error([row[part]["accuracy"] for row in own if part in row]))
        macs, uniform = _spent(own), _uniform(rows, own[0]["task"])
        cells.append(f"{macs / uniform:.2f}" if uniform else f"{macs:.0f}")
        cells.append(f"{statistics.mean(row['params'] for row in own):.0f}")
        known = [edit for edit in edits if edit["expected_gain"] is not None]
        came = sum(edit["measured_gain"] for edit in known)
        said = sum(edit["expected_gain"] for edit in known)
        cells.append(f"{said / came:.2f}" if known and came else "–")
        rises = [edit["loss_after"] / edit["loss_before"] - 1 for edit in edits]
        cells.append(f"{100 * max(rises):.2f} %" if rises else "–")
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


_PARTS = ("grown", "scratch")


def _kind(row: Row) -> tuple[Any, ...]:
    """What a row shares with those of other seeds; rows of before a setting was added lack it."""
    return tuple(row.get(key) for key in KEY if key != "seed")


def _spent(rows: Sequence[Row]) -> float:
    """The mean MACs of the forward passes of one sample over all epochs."""
    return statistics.mean(row["training_macs"] * row["total"] for row in rows)


def _uniform(rows: Sequence[Row], task: str) -> float | None:
    """What the uniformly wide network spends, in the fewest epochs that it was trained for."""
    own = [row for row in rows if (row["arm"], row["task"]) == ("uniform", task)]
    least = min((row["total"] for row in own), default=0)
    return _spent([row for row in own if row["total"] == least]) if own else None


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    every = ["uniform", "random", "new-neuron", "gradmax", "s2d", "s3d", "gauss-newton", "cut"]
    parser.add_argument("--task", choices=list(TASKS), default="mnist14")
    parser.add_argument("--arms", nargs="+", default=every)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--every", type=int, help="epochs between edits")
    parser.add_argument("--total", type=int, help="epochs in all")
    parser.add_argument("--budget", type=int, help="parameters")
    parser.add_argument("--macs", type=int, help="multiply-accumulates, a second budget")
    parser.add_argument("--fraction", type=float, default=0.5, help="of channels, in each edit")
    parser.add_argument("--plain", action="store_true", help="keep the lengths of kernels")
    parser.add_argument("--per-layer", action="store_true", help="the fraction of every layer")
    parser.add_argument("--grown-only", action="store_true", help="no training of grown shapes")
    parser.add_argument("--out", type=Path, default=Path("runs/growing.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(options.out)
    task = TASKS[options.task]()
    for name in ("every", "total", "budget"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(task, name))
    for seed in options.seeds:
        for arm in options.arms:
            key = {name: getattr(options, name, None) for name in KEY} | {"arm": arm, "seed": seed}
            if arm in ("uniform", "cut"):
                key |= {"every": options.total, "plain": False, "fraction": 1.0}
                key |= {"per_layer": False, "macs": None}
            if any(all(row.get(name) == key[name] for name in KEY) for row in rows):
                continue
            place = options.out.with_suffix("") / "-".join(str(value) for value in key.values())
            rows.append(key | run(task.of(seed), arm, seed, options, place))
            add_rows(options.out, rows[-1:])
    print(table(rows))


if __name__ == "__main__":
    main()
