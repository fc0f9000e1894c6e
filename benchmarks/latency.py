"""Predicted against measured latency, for random widths of networks not used for learning.

    python -m benchmarks.latency

Each network is timed in random shapes. Some of them fit three predictors: the table of operations
(`ramify.latency.learn`), milliseconds proportional to or linear in MACs, and the present latency
plus a price per channel of each group (`ramify.latency.prices`). The other shapes, timed again,
test them. All shapes are timed in turn, by the CPU time of a single thread, so that other load on
the machine does not affect only some of them; `--wall` uses wall time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

import ramify
from experiments.files import png, write
from ramify.cost import CostModel
from ramify.latency import (
    Clock,
    HostClock,
    LatencyModel,
    Sample,
    ThreadClock,
    draw_shapes,
    observe,
    prices,
)
from ramify.models.registry import build

Floats = NDArray[np.float64]
FIGURE = Path("docs/latency.png")


def vision_transformer() -> nn.Module:
    """A ViT of the tiny size (192 wide, 12 layers, 3 heads), on 8×8 patches."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=64,
        patch_size=8,
    )
    config.num_labels = 10
    return ViTForImageClassification(config)


def _built(name: str) -> Callable[[], nn.Module]:
    return lambda: build(name, dataset_shape=(3, 32, 32), classes=10)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "VGG-19": (_built("vgg19"), 32),
    "ResNet-20": (_built("resnet20"), 32),
    "MobileNetV1": (_built("mobilenet_v1"), 32),
    "ViT tiny": (vision_transformer, 64),
}


def by_macs(
    graph: ramify.ChannelGraph, samples: Sequence[Sample], shapes: Sequence[Sample], constant: bool
) -> Floats:
    """Milliseconds in proportion to MACs, by least squares of relative errors; or on a line."""
    model = CostModel(graph)

    def rows(given: Sequence[Sample]) -> Floats:
        return np.array([[model.cost(s.widths).macs, float(constant)] for s in given])

    totals = np.array([sample.total for sample in samples])
    weights = np.linalg.lstsq(rows(samples) / totals[:, None], np.ones(len(totals)))[0]
    return np.asarray(rows(shapes) @ weights)


def by_prices(
    graph: ramify.ChannelGraph,
    samples: Sequence[Sample],
    shapes: Sequence[Sample],
    clock: Clock | None,
) -> Floats:
    """The present latency, and a price for each channel more."""
    each = prices(graph, repeats=5, clock=clock)
    price = np.array([each.get(group.name, 0.0) for group in graph.groups])
    now = samples[0]
    return np.array([now.total + price @ (s.widths - now.widths) for s in shapes])


def row(name: str, predicted: Floats, measured: Floats) -> str:
    """Mean absolute error in percent, and the correlation of ranks."""
    error = np.mean(np.abs(predicted / measured - 1.0))
    rank = float(spearmanr(predicted, measured).statistic)
    return f"{name} {error:.1%}, {rank:.3f}"


def main() -> None:
    """Print the table, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=int, default=32, help="to learn from")
    parser.add_argument("--held", type=int, default=24, help="to judge by")
    parser.add_argument("--rounds", type=int, default=3, help="visits of each shape")
    parser.add_argument("--wall", action="store_true", help="time by the wall")
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--figure", type=Path, default=FIGURE)
    asked = parser.parse_args()
    clock = HostClock(torch.device("cpu")) if asked.wall else ThreadClock()
    print("| network | ms | measured again | table | MACs | line of MACs | prices | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    figure = Figure(figsize=(3.2 * len(asked.networks), 3.2), layout="constrained")
    for place, name in enumerate(asked.networks):
        torch.manual_seed(0)
        make, size = NETWORKS[name]
        graph = ramify.trace(make().eval(), torch.randn(1, 3, size, size))
        drawn = draw_shapes(graph, asked.shapes + asked.held)
        start = time.perf_counter()
        samples = observe(graph, drawn, rounds=asked.rounds, clock=clock)
        seconds = (time.perf_counter() - start) * asked.shapes / len(drawn)
        again = observe(graph, drawn[asked.shapes :], rounds=asked.rounds, clock=clock)
        samples, first = samples[: asked.shapes], samples[asked.shapes :]
        measured = np.array([sample.total for sample in again])
        found = {
            "again": np.array([sample.total for sample in first]),
            "table": LatencyModel(graph, samples).at_each(np.array([s.widths for s in again])),
            "MACs": by_macs(graph, samples, again, constant=False),
            "line of MACs": by_macs(graph, samples, again, constant=True),
            "prices": by_prices(graph, samples, again, clock),
        }
        cells = [row("", predicted, measured).strip() for predicted in found.values()]
        span = f"{measured.min():.1f} to {measured.max():.1f}"
        print(f"| {name} | {span} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)
        axes = figure.add_subplot(1, len(asked.networks), place + 1)
        for label, mark in (("MACs", "x"), ("line of MACs", "+"), ("table", "o")):
            axes.plot(measured, found[label], mark, label=label, markersize=4)
        ends = [measured.min(), measured.max()]
        axes.plot(ends, ends, "k-", linewidth=0.7)
        axes.set(title=name, xlabel="measured, ms", ylabel="" if place else "predicted, ms")
        axes.legend(frameon=False)
    write(asked.figure, png(figure, dpi=110))


if __name__ == "__main__":
    main()
