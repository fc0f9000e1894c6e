"""Train networks and cut them.

    python -m benchmarks.cut_networks train NAME --out FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.cut_networks.networks import TASKS, TRAININGS
from benchmarks.cut_networks.training import train


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    own = commands.add_parser("train", help="from fresh weights, or on from where it was stopped")
    own.add_argument("name", choices=list(TASKS))
    own.add_argument("--out", type=Path, required=True, help="where the weights go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(TASKS[options.name](), TRAININGS[options.name], options.out)


if __name__ == "__main__":
    main()
