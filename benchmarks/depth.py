"""Cuts of depth and width against width only: a trained network cut to shares of its MACs.

    RAMIFY_DATA=FOLDER python -m benchmarks.depth NAME WEIGHTS [--shares 0.5 ...] [--seeds 0 ...]

NAME is a network of `benchmarks.cut_networks`, which also trains it; WEIGHTS its safetensors file.
Nothing is fine-tuned. With `--blocks`, the script reports instead of cuts how much the loss rises
without each single block, before and after a refit of the remaining weights.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

import ramify
from benchmarks.cut_networks.networks import NETWORKS
from benchmarks.cut_networks.task import Task, accuracy_and_loss, loss
from ramify.refit import CutReport


def cut(task: Task, model: nn.Module, share: float, seed: int, depth: bool) -> str:
    """A row of the table: the result of one cut.

    Args:
        task: the network's data.
        model: the trained network, which is not changed.
        share: the share of its MACs to keep.
        seed: seed of the calibration sample.
        depth: whether blocks may be removed.

    Returns:
        The row.
    """
    small, batches, reports = copy.deepcopy(model), task.calibration(seed), list[CutReport]()
    inputs = batches[0][0] if isinstance(batches[0], tuple) else batches[0]
    graph = ramify.trace(small, inputs[:1])
    budget = {"macs": share * ramify.cost.graph_cost(graph).macs}
    began = time.process_time()
    ramify.cut(graph, loss, batches, budget=budget, depth=depth, log=reports.append)
    seconds = time.process_time() - began
    accuracy, measured = accuracy_and_loss(small, task.test)
    gone = ", ".join(str(drop.block) for drop in reports[0].drops) or "none"
    way = "depth and widths" if depth else "widths alone"
    worth = f"{accuracy:.2f} | {measured:.4f} | {seconds:.0f}"
    return f"| {share:.0%} | {seed} | {way} | {gone} | {worth} |"


def blocks(task: Task, model: nn.Module, seed: int) -> str:
    """The rise of the loss on the calibration sample without each single block."""
    batches = task.calibration(seed)
    inputs = batches[0][0] if isinstance(batches[0], tuple) else batches[0]
    graph = ramify.trace(model, inputs[:1])
    plain, refitted = (
        ramify.block_sensitivity(graph, loss, batches, refit=refit, held=task.validation)
        for refit in (False, True)
    )
    pairs = zip(plain.rows, refitted.rows, strict=True)
    rows = [f"| {a.block} | {a.rise:+.3f} | {b.rise:+.3f} | {a.influence:.3f} |" for a, b in pairs]
    head = ["| block | rise | rise once others took over | influence |", "|---|---|---|---|"]
    return "\n".join([*head, *rows])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5, 0.35, 0.25])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--blocks", action="store_true")
    options = parser.parse_args()
    task = NETWORKS[options.name].task()
    model = task.trained(load_file(options.weights))
    if options.blocks:
        print(blocks(task, model, options.seeds[0]))
        return
    print("| MACs | seed | cut by | blocks dropped | test accuracy (%) | test loss | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for share in options.shares:
        for seed in options.seeds:
            for depth in (False, True):
                print(cut(task, model, share, seed, depth), flush=True)


if __name__ == "__main__":
    main()
