"""Networks that are trained here, cut by `ramify.cut` and by Torch-Pruning.

    python -m benchmarks.cut_networks train NAME --out FILE
    python -m benchmarks.cut_networks compare NAME --weights FILE [--arms cut ...]
        [--shares 0.5 ...] [--seeds 0 ...] [--lr 0.01 ...] [--out FILE]

NAME is one of resnet20, vgg19, vit (CIFAR-10 in the folder that RAMIFY_DATA names) and llama
(docstrings of Python's standard library). A seed determines the calibration sample (256 training
images without augmentation, or 64 sequences of 128 tokens) and the order of fine-tuning. Without
`--lr` nothing is trained; fine-tuning uses 10,000 of the training images, or 2,500 of the
sequences. Rows are kept in FILE, so that an interrupted run resumes; the table shows all rows in
it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cut.arms import ARMS
from benchmarks.cut.tuning import Recipe
from benchmarks.cut_networks.comparison import Comparison, table
from benchmarks.cut_networks.networks import NETWORKS
from benchmarks.cut_networks.training import train


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    own = commands.add_parser("train", help="from scratch, or on from where it was stopped")
    own.add_argument("name", choices=list(NETWORKS))
    own.add_argument("--out", type=Path, required=True, help="where the weights go")
    own = commands.add_parser("compare", help="cut and tune trained weights")
    own.add_argument("name", choices=list(NETWORKS))
    own.add_argument("--weights", type=Path, required=True)
    own.add_argument("--arms", nargs="+", default=["cut"], choices=ARMS)
    own.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5, 0.3])
    own.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    own.add_argument("--lr", type=float, nargs="*", default=[], help="rates to tune at")
    own.add_argument("--epochs", type=int, default=2, help="of tuning")
    own.add_argument("--out", type=Path, required=True, help="where the rows are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "train":
        network = NETWORKS[options.name]
        train(network.task(), network.training, options.out)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Run the arms and print the table.

    Args:
        options: the options of the command.
    """
    network = NETWORKS[options.name]
    comparison = Comparison(network, options.weights, options.out)
    usual = Recipe(epochs=options.epochs, optimizer=network.optimizer)
    recipes = [None, *(replace(usual, lr=lr) for lr in options.lr)]
    list(comparison.run("full", 1.0, 0, [None]))
    for seed in options.seeds:
        for share in options.shares:
            for arm in options.arms:
                for row in comparison.run(arm, share, seed, recipes):
                    print(json.dumps(row), flush=True)
    print(table(comparison.rows))


if __name__ == "__main__":
    main()
