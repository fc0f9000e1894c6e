"""A latency budget: whether measurements meet it, and its accuracy against a budget of MACs.

    python -m benchmarks.cut_latency WEIGHTS DATA [--share 0.6] [--batch 8] [--shares 0.8 0.7 ...]
        [--depth] [--tune 0.01]
    python -m benchmarks.cut_latency WEIGHTS --network resnet20 [...]

EfficientNet-Lite0 on the 20 classes of Caltech (see `benchmarks.cut`), or a network of
`benchmarks.cut_networks`, is cut to a share of its measured latency, and other copies of it to
shares of its MACs. The cut networks are then timed in turn, one call of each after another, so
that changes of the machine's speed affect all of them. The accuracy of MACs budgets at the latency
of the first network is interpolated between two rows. With `--depth`, another network is cut to the
same latency with removal of blocks; with `--tune`, all are then fine-tuned with the full network as
the teacher.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import ramify
from benchmarks.cut.network import epoch, images, network, sample, tested
from benchmarks.cut.tuning import Batches, Recipe, Remembered, tuned
from benchmarks.cut_networks.networks import NETWORKS
from benchmarks.cut_networks.task import Batch, accuracy_and_loss, loss
from ramify import latency
from ramify.cost import graph_cost
from ramify.train.norm_statistics import recompute_statistics

TURNS, DEPTH = 40, ", blocks too"


@dataclass(frozen=True)
class Case:
    """A trained network and its data.

    Attributes:
        build: the network with its weights, in eval mode.
        x: inputs to time it on.
        calibration: the calibration batches of a cut.
        accuracy: the accuracy of a network on the test samples, in percent.
        passes: number of an epoch -> its batches for fine-tuning.
        settle: recomputes the norm statistics of a fine-tuned network.
        recipe: the recipe of fine-tuning, without its rate.
    """

    build: Callable[[], nn.Module]
    x: Tensor
    calibration: list[Batch]
    accuracy: Callable[[nn.Module], float]
    passes: Batches
    settle: Callable[[nn.Module], object]
    recipe: Recipe

    @classmethod
    def pictures(cls, weights: Path, data: Path, seed: int, batch: int) -> Case:
        """EfficientNet-Lite0 on the classes of a folder."""
        train, test = images(data / "train"), images(data / "test")
        x = test[0][:batch].contiguous(memory_format=torch.channels_last)
        build = partial(network, weights)
        accuracy = lambda model: tested(model, test)[0]  # noqa: E731
        passes = lambda number: epoch(train, (seed, number))  # noqa: E731
        whole = sample(train, seed, len(train[1]))
        settle = lambda model: recompute_statistics(model, loss, whole)  # noqa: E731
        return cls(build, x, sample(train, seed), accuracy, passes, settle, Recipe())

    @classmethod
    def named(cls, name: str, weights: Path, seed: int, batch: int) -> Case:
        """A network of `benchmarks.cut_networks`."""
        task = NETWORKS[name].task()
        build = partial(task.trained, load_file(weights))
        accuracy = lambda model: accuracy_and_loss(model, task.test)[0]  # noqa: E731
        settle = lambda model: recompute_statistics(model, loss, task.settling)  # noqa: E731
        x, passes, recipe = task.test[0][0][:batch], partial(task.some, seed), Recipe(epochs=1)
        return cls(build, x, task.calibration(seed), accuracy, passes, settle, recipe)

    def cut_to(self, budget: Mapping[str, float], depth: bool) -> nn.Module:
        """The network, cut to a budget, with or without removal of blocks."""
        model = self.build()
        graph = ramify.trace(model, self.x)
        ramify.cut(graph, loss, self.calibration, budget=budget, depth=depth)
        return model

    def tuned(self, model: nn.Module, rate: float) -> float:
        """Fine-tune a network in place, and return its accuracy."""
        tuned(model, loss, self.passes, replace(self.recipe, lr=rate), Remembered(self.build()))
        self.settle(model)
        return self.accuracy(model)


def in_turns(models: Mapping[str, nn.Module], x: Tensor) -> dict[str, float]:
    """The median milliseconds of every network, timed in turn over many rounds."""
    seen: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(TURNS):
        for name, model in models.items():
            seen[name].append(latency.measure(model, x, repeats=1, warmup=1).median)
    return {name: statistics.median(own) for name, own in seen.items()}


def between(rows: list[tuple[float, float]], milliseconds: float) -> float | None:
    """The accuracy at a latency, interpolated between the two nearest (latency, accuracy) rows."""
    ordered = sorted(rows)
    for (low, worse), (high, better) in itertools.pairwise(ordered):
        if low <= milliseconds <= high:
            return worse + (better - worse) * (milliseconds - low) / (high - low)
    return None


def main() -> None:
    """Cut, time in turns, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path, nargs="?", help="of EfficientNet-Lite0")
    parser.add_argument("--network", choices=list(NETWORKS), help="in place of EfficientNet-Lite0")
    parser.add_argument("--share", type=float, default=0.6, help="of the measured latency")
    parser.add_argument("--batch", type=int, default=8, help="images of the traced input")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.6, 0.5, 0.4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--depth", action="store_true", help="a network whose blocks may go, too")
    parser.add_argument("--tune", type=float, help="the rate at which the cut ones are fine-tuned")
    options = parser.parse_args()
    if (options.data is None) == (options.network is None):
        parser.error("give the folder DATA of EfficientNet-Lite0, or --network with a name")
    torch.set_num_threads(1)
    if options.network is not None:
        case = Case.named(options.network, options.weights, options.seed, options.batch)
    else:
        case = Case.pictures(options.weights, options.data, options.seed, options.batch)
    full, x = case.build(), case.x
    graph = ramify.trace(full, x)
    now, macs = latency.measure_edited(graph).median, graph_cost(graph).macs
    budgets: dict[str, dict[str, Any]] = {
        f"latency {options.share:.0%}": {"latency": options.share * now}
    }
    if options.depth:
        budgets[f"latency {options.share:.0%}{DEPTH}"] = {"latency": options.share * now}
    budgets |= {f"MACs {share:.0%}": {"macs": share * macs} for share in options.shares}
    models = {"full": full}
    for name, budget in budgets.items():
        models[name] = case.cut_to(budget, name.endswith(DEPTH))
        print(f"{name}: cut", flush=True)
    times = in_turns(models, x)
    print(f"measured before the cut: {now:.1f} ms, asked for {options.share * now:.1f} ms")
    print("| budget | milliseconds | of the full network | MACs | accuracy | fine-tuned |")
    print("|---|---|---|---|---|---|")
    right = {}
    for name, model in models.items():
        share = graph_cost(ramify.trace(model, x)).macs / macs
        right[name] = case.accuracy(model)
        part = times[name] / times["full"]
        after = ""
        if options.tune is not None and name != "full":
            after = f"{case.tuned(model, options.tune):.1f}"
        line = f"{times[name]:.1f} | {part:.3f} | {share:.3f} | {right[name]:.1f} | {after}"
        print(f"| {name} | {line} |", flush=True)
    rows = [(times[name], right[name]) for name in models if not name.startswith("latency")]
    own = next(name for name in models if name.startswith("latency"))
    equal = between(rows, times[own])
    print(f"at the latency of the first: {right[own]:.1f} %, by MACs {equal and f'{equal:.1f} %'}")


if __name__ == "__main__":
    main()
