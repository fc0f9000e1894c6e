"""A budget of milliseconds: is it met as measured, and what does it keep against a budget of MACs?

    python -m benchmarks.cut_latency WEIGHTS DATA [--share 0.6] [--batch 8] [--shares 0.8 0.7 ...]

EfficientNet-Lite0 on the 20 classes of Caltech (see `benchmarks.cut`) is cut to a share of its
measured latency, and other copies of it to shares of its MACs. The cut networks are then timed in
turn, one call of each after the other, so that a change of the machine's speed meets all of them.
The accuracy that MACs buy at the latency of the first network is found between two rows.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ramify
from benchmarks.cut.network import Images, images, loss, network, sample, tested
from ramify import latency
from ramify.cost import graph_cost

TURNS = 40


def in_turns(models: Mapping[str, nn.Module], x: Tensor) -> dict[str, float]:
    """The median milliseconds of every network, timed one after the other in many turns."""
    seen: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(TURNS):
        for name, model in models.items():
            seen[name].append(latency.measure(model, x, repeats=1, warmup=1).median)
    return {name: statistics.median(own) for name, own in seen.items()}


def cut_to(
    weights: Path, x: Tensor, calibration: list[Images], budget: Mapping[str, float]
) -> nn.Module:
    """The network, cut to a budget."""
    model = network(weights)
    ramify.cut(ramify.trace(model, x), loss, calibration, budget=budget)
    return model


def between(rows: list[tuple[float, float]], milliseconds: float) -> float | None:
    """The accuracy at a latency, between the two rows (latency, accuracy) around it."""
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
    parser.add_argument("data", type=Path)
    parser.add_argument("--share", type=float, default=0.6, help="of the measured latency")
    parser.add_argument("--batch", type=int, default=8, help="images of the traced input")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.6, 0.5, 0.4])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, test = images(options.data / "train"), images(options.data / "test")
    x = test[0][: options.batch].contiguous(memory_format=torch.channels_last)
    calibration = sample(train, options.seed)
    full = network(options.weights)
    graph = ramify.trace(full, x)
    now, macs = latency.measure_edited(graph).median, graph_cost(graph).macs
    budgets: dict[str, dict[str, Any]] = {
        f"latency {options.share:.0%}": {"latency": options.share * now}
    }
    budgets |= {f"MACs {share:.0%}": {"macs": share * macs} for share in options.shares}
    models = {"full": full}
    for name, budget in budgets.items():
        models[name] = cut_to(options.weights, x, calibration, budget)
        print(f"{name}: cut", flush=True)
    times = in_turns(models, x)
    print(f"measured before the cut: {now:.1f} ms, asked for {options.share * now:.1f} ms")
    print(
        "| budget | milliseconds | of the full network | MACs | accuracy |\n|---|---|---|---|---|"
    )
    right = {}
    for name, model in models.items():
        share = graph_cost(ramify.trace(model, x)).macs / macs
        right[name], _ = tested(model, test)
        part = times[name] / times["full"]
        print(f"| {name} | {times[name]:.1f} | {part:.3f} | {share:.3f} | {right[name]:.1f} |")
    rows = [(times[name], right[name]) for name in models if not name.startswith("latency")]
    own = next(name for name in models if name.startswith("latency"))
    equal = between(rows, times[own])
    print(f"at the latency of the first: {right[own]:.1f} %, by MACs {equal and f'{equal:.1f} %'}")


if __name__ == "__main__":
    main()
