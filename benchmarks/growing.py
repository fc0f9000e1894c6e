"""Grown networks, their shapes trained from scratch, and uniformly wide ones, on MNIST at 14×14.

    python -m benchmarks.growing [--arms uniform random gauss-newton ...] [--seeds 0 1 2 3 4]
        [--epochs 6] [--total 72] [--budget 4000] [--fraction 0.5] [--out FILE]

The images of MNIST in the folder that RAMIFY_DATA names, averaged over 2×2 pixels: 6,000 to
train on, all 10,000 of the test set. A grown network starts with four channels a layer, is edited
every `--epochs` epochs until it has `--budget` parameters, and trains on to `--total` epochs; its
shape is then trained from fresh weights for as many, and so is a uniformly wide network of as many
parameters.
Rows are kept in FILE, so that a run goes on where it was; the table is of all rows in it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ramify
from benchmarks.rows import add_rows, mean_and_error, read_rows
from ramify.cost import graph_cost
from ramify.data import load
from ramify.methods import Method
from ramify.methods.registry import method_named
from ramify.models.digits_net import DigitsNet
from ramify.store.model import recipe_of
from ramify.train.epoch import Training, cross_entropy, evaluate
from ramify.train.fresh_networks import scratch, wide
from ramify.train.grow import grow
from ramify.train.loop import train

Batch = tuple[Tensor, Tensor]
Row = dict[str, Any]
STEP = {"step": 0.1, "unit": "kernel"}
SETTINGS: dict[str, dict[str, Any]] = {
    "s2d": STEP,
    "s3d": STEP | {"signed": 1.3},
    "random": STEP,
    "gauss-newton": {"epochs": 2, "curvature": "fisher"},
}
"""What methods are told beside their defaults."""
LEARNING = ("gauss-newton",)  # methods that learn on all of the data
IMAGES, PROBE, SIZE = 6000, 1024, 128


class Images:
    """The images, half as wide and high."""

    def __init__(self) -> None:
        whole = load("mnist")
        order = torch.randperm(len(whole.y_train), generator=torch.Generator().manual_seed(0))
        self.x = F.avg_pool2d(whole.x_train[order[:IMAGES]], 2)
        self.y = whole.y_train[order[:IMAGES]]
        self.test = F.avg_pool2d(whole.x_test, 2), whole.y_test

    def epochs(self, seed: int) -> Callable[[int], Sequence[Batch]]:
        """The batches of an epoch, in an order of the seed's and the epoch's own."""

        def batches(epoch: int) -> list[Batch]:
            generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
            order = torch.randperm(IMAGES, generator=generator)
            return [(self.x[part], self.y[part]) for part in order.split(SIZE)]

        return batches

    def probe(self, seed: int) -> list[Batch]:
        """A sample to judge edits by."""
        return list(self.epochs(seed)(-1))[: PROBE // SIZE]

    def score(self, model: nn.Module) -> dict[str, float]:
        """Test accuracy in percent, and test loss."""
        x, y = self.test
        loss, accuracy = evaluate(model, list(zip(x.split(1000), y.split(1000), strict=True)))
        return {"accuracy": 100 * accuracy, "loss": loss}


def build() -> DigitsNet:
    """The network that growing starts with."""
    return DigitsNet(in_channels=1, classes=10, width=4)


def grown(
    images: Images, arm: str, seed: int, options: argparse.Namespace
) -> tuple[nn.Module, Row]:
    """A grown network, and what came of each edit."""
    torch.manual_seed(seed)
    model = build()
    method: Method = method_named(arm, seed=seed, settings=SETTINGS.get(arm, {}))
    done = grow(
        model,
        images.x[:1],
        cross_entropy,
        images.epochs(seed),
        method=method,
        rule=ramify.TopFraction(options.fraction),
        training=Training(options.epochs, weight_decay=5e-4, span="run"),
        rounds=options.total // options.epochs - 1,
        budget={"params": options.budget},
        probe=None if arm in LEARNING else images.probe(seed),
        rescale=not options.plain,
    )
    edits = [event for event in done.history if event["event"] == "edit"]
    keys = ("expected_gain", "measured_gain", "loss_before", "loss_after", "step_factor")
    macs = [event["macs"] for event in done.history if event["event"] == "epoch"]
    row = {
        "edits": [{key: edit[key] for key in keys} for edit in edits],
        "widths": [group.width for group in done.graph.groups if group.can_split],
        "training_macs": statistics.mean(macs),
    }
    return model, row


def fresh(images: Images, model: nn.Module, seed: int, total: int) -> Row:
    """What a network from fresh weights comes to."""
    training = Training(total, weight_decay=5e-4)
    train(model, images.x[:1], cross_entropy, images.epochs(seed), training=training)
    return images.score(model)


def run(images: Images, arm: str, seed: int, options: argparse.Namespace) -> Row:
    """One arm with one seed."""
    if arm == "uniform":
        torch.manual_seed(seed)
        model = wide(build, images.x[:1], options.budget)
        graph = ramify.trace(model, images.x[:1])
        row: Row = {"widths": [group.width for group in graph.groups if group.can_split]}
        row |= {"training_macs": float(graph_cost(graph).macs), "edits": []}
        row |= {"scratch": fresh(images, model, seed, options.total)}
    else:
        model, row = grown(images, arm, seed, options)
        row["grown"] = images.score(model)
        torch.manual_seed(seed + 1000)
        again = scratch(build, recipe_of(model))
        row["scratch"] = fresh(images, again, seed, options.total)
    params = sum(parameter.numel() for parameter in model.parameters())
    return row | {"params": params}


KEY = ("arm", "seed", "epochs", "total", "budget", "fraction", "plain")
"""What tells a row from another."""


def table(rows: Sequence[Row]) -> str:
    """Means and standard errors over seeds as Markdown."""
    heads = ["arm", "edits every", "seeds", "grown, %", "its shape from scratch, %"]
    heads += ["training MACs", "parameters", "expected over measured", "most a loss rose by"]
    lines = [" | ".join(heads), " | ".join(["---"] * len(heads))]
    uniform = [row["training_macs"] for row in rows if row["arm"] == "uniform"]
    every = {tuple(row[key] for key in KEY if key != "seed") for row in rows}
    for kind in sorted(every, key=str):
        own = [r for r in rows if tuple(r[key] for key in KEY if key != "seed") == kind]
        edits = [edit for row in own for edit in row["edits"]]
        name = own[0]["arm"] + (", not rescaled" if own[0]["plain"] else "")
        cells = [name, f"{own[0]['epochs']} epochs", str(len(own))]
        for part in _PARTS:
            cells.append(mean_and_error([row[part]["accuracy"] for row in own if part in row]))
        macs = statistics.mean(row["training_macs"] for row in own)
        cells.append(f"{macs / statistics.mean(uniform):.2f}" if uniform else f"{macs:.0f}")
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


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    every = ["uniform", "random", "new-neuron", "gradmax", "s2d", "s3d", "gauss-newton"]
    parser.add_argument("--arms", nargs="+", default=every)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=3, help="between edits")
    parser.add_argument("--total", type=int, default=72, help="epochs in all")
    parser.add_argument("--budget", type=int, default=4000, help="parameters")
    parser.add_argument("--fraction", type=float, default=0.5, help="of channels, in each edit")
    parser.add_argument("--plain", action="store_true", help="keep the lengths of kernels")
    parser.add_argument("--out", type=Path, default=Path("runs/growing.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read_rows(options.out)
    images = Images()
    for seed in options.seeds:
        for arm in options.arms:
            key = {name: getattr(options, name) for name in KEY[2:]} | {"arm": arm, "seed": seed}
            if arm == "uniform":
                key |= {"epochs": options.total, "plain": False, "fraction": 1.0}
            if any(all(row[name] == key[name] for name in KEY) for row in rows):
                continue
            rows.append(key | run(images, arm, seed, options))
            add_rows(options.out, rows[-1:])
    print(table(rows))


if __name__ == "__main__":
    main()
