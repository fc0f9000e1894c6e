"""The command line; see `python -m experiments.rarts.darts --help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.files import show
from experiments.rarts.darts.study import METHODS, Settings, run, timed, total_epochs
from experiments.rarts.darts.table import page
from experiments.resume import add_settings, completed, folder_of, progress


def options() -> argparse.ArgumentParser:
    """The command-line options; every setting of the study is an option of the same name."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.rarts.darts",
        description="Search cells of the DARTS space or draw them at random, and train their "
        "networks. "
        "Finished parts are kept in the folder; repeat the command to resume.",
    )
    add_settings(parser, Settings())
    parser.add_argument(
        "--methods",
        default=",".join(METHODS),
        help=f"comma-separated subset of {', '.join(METHODS)}",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path, default=Path("runs/rarts-darts"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything that results.jsonl does not contain yet, then write the table."""
    chosen = vars(options().parse_args(arguments))
    out, methods = chosen.pop("out"), chosen.pop("methods").split(",")
    begin, count = chosen.pop("first"), chosen.pop("seeds")
    settings, console = Settings(**chosen), Console()
    torch.set_num_threads(1)  # a latency is that of one thread
    stages = folder_of(out / "stages", settings)
    stages.mkdir(parents=True, exist_ok=True)
    seeds = range(begin, begin + count)
    keys = [{"seed": seed, "method": method} for seed in seeds for method in methods]
    with progress(console) as bars:

        def one(seed: int, method: str) -> dict[str, Any]:
            bar = bars.add_task(f"{method}, seed {seed}", total=total_epochs(method, settings))
            return run(method, seed, settings, stages, partial(bars.advance, bar))

        rows = completed(out / "results.jsonl", settings, keys, one)
    times = timed([row["genotype"] for row in rows], settings)
    rows = [row | {"latency": found} for row, found in zip(rows, times, strict=True)]
    show(out, page(rows))


if __name__ == "__main__":
    main()
