"""The knapsack with 10,000 channels: value, time, gap and budgets, on networks and by hand.

    python -m benchmarks.knapsack [--seconds 6]

Gains are drawn from an exponential distribution. Every channel may be split into 2, 3 or 4 copies
(S3D, Appendix C.1), and in `mixed` rows also be pruned. The budgets of each row apply jointly.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import nn

import ramify
from ramify.cost import Cost, CostModel, graph_cost
from ramify.models.registry import build


def wide_network() -> nn.Module:
    """Five hidden layers of 2,000."""
    sizes = [64, *[2000] * 5]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))


def on_graph(graph: ramify.ChannelGraph, prunes: bool) -> list[ramify.Proposal]:
    """Splits of every channel in 2, 3 and 4, each worth more than the smaller."""
    draw, model, out = np.random.default_rng(0), CostModel(graph), []
    for group in graph.groups:
        if not group.can_split:
            continue
        costs = {m: model.added([_split(group.name, 0, m)]) for m in (2, 3, 4)}
        for channel in range(group.width):
            gains = np.cumsum(draw.exponential(size=3) * [1.0, 0.5, 0.3])
            for copies, gain in zip((2, 3, 4), gains, strict=True):
                edit = _split(group.name, channel, copies)
                out.append(ramify.Proposal(edit, gain, costs[copies], graph=graph))
            if prunes:
                loss = -draw.exponential() * 0.5
                gone = ramify.Prune(group.name, channel)
                out.append(ramify.Proposal(gone, loss, Cost(0, 0), graph=graph))
    return out


def by_hand(channels: int) -> list[ramify.Proposal]:
    """Splits in 2, 3 and 4 with prices of their own, without a graph."""
    draw, out = np.random.default_rng(0), []
    prices = draw.integers(10, 5000, size=(channels, 2))
    for channel in range(channels):
        gains = np.cumsum(draw.exponential(size=3) * [1.0, 0.5, 0.3])
        for copies, gain in zip((2, 3, 4), gains, strict=True):
            params, macs = (int(n) * (copies - 1) for n in prices[channel])
            out.append(ramify.Proposal(_split("layer", channel, copies), gain, Cost(params, macs)))
    return out


def _split(group: str, channel: int, copies: int) -> ramify.Split:
    return ramify.Split(group, channel, (1 / copies,) * copies)


def row(
    name: str, proposals: list[ramify.Proposal], budgets: Mapping[str, float], seconds: float
) -> str:
    """One knapsack, timed by the wall and by the processor time of this thread."""
    start = time.perf_counter(), time.thread_time()
    found = ramify.Knapsack(**budgets, seconds=seconds).solve(proposals)  # type: ignore[arg-type]
    wall, processor = time.perf_counter() - start[0], time.thread_time() - start[1]
    graph = proposals[0].graph
    if graph is not None:  # by the walk over the tape, which knows nothing of the polynomials
        true = graph_cost(graph, [p.edit for p in found.chosen]) - graph_cost(graph)
    else:
        true = Cost(
            sum(p.cost.params for p in found.chosen), sum(p.cost.macs for p in found.chosen)
        )
    used = ", ".join(f"{n} {true.of(n) / b:.4%}" for n, b in budgets.items())
    assert all(true.of(name) <= budget for name, budget in budgets.items())
    channels = len({(p.edit.group, p.edit.channel) for p in proposals})
    counts = f"{channels} | {len(proposals)} | {len(found.chosen)}"
    result = f"{wall:.1f} | {processor:.1f} | {found.value:.3f} | {found.gap:.1e}"
    return f"| {name} | {counts} | {result} | {used} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="The knapsack: value, time, gap and budgets.")
    parser.add_argument("--seconds", type=float, default=6.0, help="by the wall, a row at most")
    seconds = parser.parse_args().seconds
    print("| what | channels | proposals | chosen | wall | CPU | value | gap | of each budget |")
    print("|---|---|---|---|---|---|---|---|---|")
    proposals = by_hand(10_000)
    total = Cost(sum(p.cost.params for p in proposals), sum(p.cost.macs for p in proposals))
    print(row("by hand", proposals, {"params": total.params // 20}, seconds))
    two = {"params": total.params // 20, "macs": total.macs // 25}
    print(row("by hand, two budgets", proposals, two, seconds))
    image, vector = torch.randn(1, 3, 32, 32), torch.randn(1, 64)
    nets = {
        "VGG-19": (build("vgg19", dataset_shape=(3, 32, 32), classes=10), image),
        "MobileNetV1": (build("mobilenet_v1", dataset_shape=(3, 32, 32), classes=10), image),
        "PreResNet-164": (build("preresnet164", dataset_shape=(3, 32, 32), classes=10), image),
        "MLP 5×2000": (wide_network(), vector),
    }
    for name, (net, inputs) in nets.items():
        graph = ramify.trace(net.eval(), inputs)
        now = graph_cost(graph)
        for kind in ("splits", "mixed"):
            proposals = on_graph(graph, kind == "mixed")
            one = {"params": now.params // 3}
            two = {"params": now.params // 3, "flops": now.flops // 4}
            print(row(f"{name}, {kind}", proposals, one, seconds), flush=True)
            print(row(f"{name}, {kind}, two budgets", proposals, two, seconds), flush=True)
        shrink = {"params": -now.params // 3, "macs": -now.macs // 4}
        print(row(f"{name}, shrink", on_graph(graph, True), shrink, seconds), flush=True)


if __name__ == "__main__":
    main()
