"""Fine-tuning of cut networks at fixed learning rates, and at the one that short trials find.

    RAMIFY_DATA=FOLDER python -m benchmarks.tuning_rate [--data mnist ...] [--nets resnet20 ...]
        [--seeds 1 2] [--shares 0.5 0.2] [--epochs 2] [--out FILE]

Networks are trained with AdamW on 6,000 images of MNIST or CIFAR-10, averaged over 2×2 pixels, cut
with 256 of them to a share of their MACs, and fine-tuned by SGD with the full network as teacher,
as `ramify.shrink` does by default. Each row is one fine-tuning. Rows are kept in FILE, so that an
interrupted run resumes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ramify
from benchmarks.cut_expected import loss
from benchmarks.cut_selections import fitted
from benchmarks.rows import add_rows, mean_and_error, read_rows
from ramify.cost import graph_cost
from ramify.data import load
from ramify.errors import Diverged
from ramify.models import build
from ramify.refit import cut
from ramify.relax.distillation import distilled
from ramify.train.epoch import evaluate
from ramify.train.loop import train
from ramify.train.norm_statistics import recompute_statistics
from ramify.train.shrink import TEMPERATURE, tuning
from ramify.train.tuning_rate import tuning_rate

Row = dict[str, Any]
Batch = tuple[Tensor, Tensor]
RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
"""All that the trials may find."""
IMAGES, SIZE, SAMPLE = 6_000, 64, 256
EPOCHS = {"mnist": 8, "cifar10": 12}
KEY = ("data", "net", "seed", "share", "epochs", "lr")


class ViT(nn.Module):
    """Three blocks of width 48 with four heads, on patches of 2×2 pixels."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, 48, 2, 2)
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // 2) ** 2, 48))
        block = partial(nn.TransformerEncoderLayer, 48, 4, 192, 0.0, F.gelu, batch_first=True)
        self.blocks = nn.ModuleList(block(norm_first=True) for _ in range(3))
        self.norm = nn.LayerNorm(48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (S, 10) of images (S, channels, size, size)."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def plain(channels: int, size: int) -> nn.Module:
    """Four convolutions and a linear layer without norms."""
    layers: list[nn.Module] = []
    for before, after in ((channels, 24), (24, 24), (24, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if len(layers) in (4, 9) else []
    flat = 32 * (size // 4) ** 2
    layers += [nn.Flatten(), nn.Linear(flat, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def perceptron(channels: int, size: int) -> nn.Module:
    """Two hidden layers of 128."""
    layers = [nn.Linear(channels * size**2, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(128, 10))


def registered(name: str, width: int) -> Callable[[int, int], nn.Module]:
    """A network of the registry."""
    return lambda channels, size: build(
        name, dataset_shape=(channels, size, size), classes=10, width=width
    )


NETS: dict[str, Callable[[int, int], nn.Module]] = {
    "perceptron": perceptron,
    "convolutions": plain,
    "resnet20": registered("resnet20", 8),
    "mobilenet_v1": registered("mobilenet_v1", 32),
    "vit": ViT,
}


def data(name: str) -> tuple[Tensor, Tensor, list[Batch]]:
    """Training images at half the size, their classes, and test batches."""
    whole = load(name)
    drawn = torch.randperm(len(whole.x_train), generator=torch.Generator().manual_seed(0))[:IMAGES]
    test = F.avg_pool2d(whole.x_test, 2).split(500), whole.y_test.split(500)
    return (
        F.avg_pool2d(whole.x_train[drawn], 2),
        whole.y_train[drawn],
        list(zip(*test, strict=True)),
    )


def rows_of(
    name: str, net: str, seed: int, shares: list[float], epochs: int, done: Callable[[Row], bool]
) -> Iterator[Row]:
    """The fine-tunings of one network that are not done: at each rate, and at the found one."""
    key: Row = {"data": name, "net": net, "seed": seed, "epochs": epochs}
    wanted = {s: [r for r in RATES if not done({**key, "share": s, "lr": r})] for s in shares}
    if not any(wanted.values()):
        return
    x, y, test = data(name)
    torch.manual_seed(seed)
    full = fitted(NETS[net](x.shape[1], x.shape[2]), x, y, EPOCHS[name], seed)
    drawn = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    sample, held = (
        [(x[part], y[part]) for part in one.split(SIZE)]
        for one in (drawn[:SAMPLE], drawn[SAMPLE : 2 * SAMPLE])
    )

    def epoch(number: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        order = torch.randperm(len(x), generator=generator)
        return [(x[part], y[part]) for part in order.split(SIZE)]

    taught = distilled(loss, full, TEMPERATURE, weight=TEMPERATURE**2)
    training = replace(tuning(), epochs=epochs)
    for share, rates in wanted.items():
        if not rates:
            continue
        model = copy.deepcopy(full)
        graph = ramify.trace(model, x[:1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # narrow layers, and networks at chance
            cut(graph, loss, sample, held=held, budget={"macs": share * graph_cost(graph).macs})
        steps = epochs * len(epoch(0))
        given: Row = {"epoch": 0, "steps": steps, "training": training, "sample": sample}
        found = tuning_rate(model, loss, taught, epoch, held=held, **given)
        for rate in rates:
            tuned, result = copy.deepcopy(model), 0.0  # of a training that diverges
            try:
                train(tuned, x[:1], taught, epoch, training=replace(training, lr=rate))
                recompute_statistics(tuned, loss, epoch(0))
                result = 100 * evaluate(tuned, test)[1]
            except Diverged:
                pass
            yield {
                **key,
                "share": share,
                "lr": rate,
                "full": 100 * evaluate(full, test)[1],
                "cut": 100 * evaluate(model, test)[1],
                "tuned": result,
                "found": found.event(),
            }


def table(rows: list[Row]) -> Iterator[str]:
    """Accuracies at every rate and at the found one, and how far each is below the best."""
    yield (
        "| network, seeds | MACs | full | cut | "
        + " | ".join(f"{r:g}" for r in RATES)
        + " | found |"
    )
    yield "|---" * (len(RATES) + 5) + "|"
    behind: dict[float | str, list[float]] = {rate: [] for rate in (*RATES, "found")}
    names = ("data", "net", "share", "epochs")
    for task in dict.fromkeys(tuple(row[name] for name in names) for row in rows):
        own = [row for row in rows if tuple(row[name] for name in names) == task]
        seeds = sorted({row["seed"] for row in own})
        cells: dict[float | str, list[float]] = {rate: [] for rate in behind}
        for seed in seeds:
            tuned = {row["lr"]: row["tuned"] for row in own if row["seed"] == seed}
            if set(tuned) != set(RATES):
                continue
            lr = next(row["found"]["lr"] for row in own if row["seed"] == seed)
            tuned["found"] = tuned[lr]
            for rate, value in tuned.items():
                cells[rate].append(value)
                behind[rate].append(max(tuned.values()) - value)
        known = [statistics.mean(row[name] for row in own) for name in ("full", "cut")]
        values = [*(f"{value:.1f}" for value in known), *map(mean_and_error, cells.values())]
        name = f"{task[1]} on {task[0]}, {len(seeds)}"
        yield f"| {name} | {task[2]:.0%} | {' | '.join(values)} |"
    if any(behind.values()):
        mean = [f"{statistics.mean(values):.2f}" for values in behind.values()]
        most = [f"{max(values):.1f}" for values in behind.values()]
        yield f"| below the best rate, mean | | | | {' | '.join(mean)} |"
        yield f"| below the best rate, most | | | | {' | '.join(most)} |"


def main() -> None:
    """Run what is not done, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=list(EPOCHS), choices=EPOCHS)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=NETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.2])
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning")
    parser.add_argument("--out", type=Path, default=Path("runs/tuning_rate.jsonl"))
    options = parser.parse_args()

    finished = {tuple(row[name] for name in KEY) for row in read_rows(options.out)}
    done = lambda row: tuple(row[name] for name in KEY) in finished  # noqa: E731
    for seed in options.seeds:
        for name in options.data:
            for net in options.nets:
                for row in rows_of(name, net, seed, options.shares, options.epochs, done):
                    add_rows(options.out, [row])
                    where = f"{net} on {name}, seed {seed}, {row['share']:.0%}, {row['lr']:g}"
                    print(
                        f"{where}: {row['tuned']:.1f} %, found {row['found']['lr']:g}", flush=True
                    )
    print(*table(read_rows(options.out)), sep="\n")


if __name__ == "__main__":
    main()
