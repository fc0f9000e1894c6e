"""The command line; see `python -m experiments.rarts.latency --help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.files import png, show, write
from experiments.rarts.latency.figure import figure
from experiments.rarts.latency.study import Settings, run, table, timed
from experiments.rarts.latency.table import page
from experiments.resume import add_settings, completed, keep, progress


def options() -> argparse.ArgumentParser:
    """The command-line options; every setting of the study is an option of the same name."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.rarts.latency",
        description="Search cells of the DARTS space on CIFAR-10 with an increasing latency "
        "penalty, and measure the latency of the results. "
        "Finished parts are kept in the folder; repeat the command to resume.",
    )
    add_settings(parser, Settings())
    parser.add_argument("--gammas", default="0,0.02,0.1", help="penalty weights per millisecond")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/rarts-latency"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything that results.jsonl does not contain yet, then write table and figure."""
    chosen = vars(options().parse_args(arguments))
    out, count = chosen.pop("out"), chosen.pop("seeds")
    gammas = [float(text) for text in chosen.pop("gammas").split(",")]
    settings, console = Settings(**chosen), Console()
    torch.set_num_threads(1)  # a latency is that of one thread
    out.mkdir(parents=True, exist_ok=True)
    table(settings, out / "latency.json")
    keys = [{"seed": seed, "gamma": gamma} for seed in range(count) for gamma in gammas]
    with progress(console) as bars:

        def one(seed: int, gamma: float) -> dict[str, Any]:
            bar = bars.add_task(f"γ = {gamma:g}, seed {seed}", total=settings.epochs)
            return run(gamma, seed, settings, out, partial(bars.advance, bar))

        rows = completed(out / "results.jsonl", settings, keys, one)
    if not all("latency" in row for row in rows):
        times = timed([row["genotype"] for row in rows], settings)
        rows = [row | found for row, found in zip(rows, times, strict=True)]
        keep(out / "results.jsonl", settings, rows)
    write(out / "latency.png", png(figure(rows)))
    show(out, page(rows))


if __name__ == "__main__":
    main()
