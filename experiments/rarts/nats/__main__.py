"""The command line; see `python -m experiments.rarts.nats --help`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from experiments.files import png, show, write
from experiments.rarts.nats.figure import movement, on_the_way, space
from experiments.rarts.nats.lookups import final, over_steps
from experiments.rarts.nats.study import METHODS, Settings, run, steps, total_steps
from experiments.rarts.nats.table import page, steps_table
from experiments.resume import add_settings, completed, folder_of, progress
from ramify.cells import NatsTables

CELLS = 15_625  # of the space


def options() -> argparse.ArgumentParser:
    """The command-line options; every setting of the study is an option of the same name."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.rarts.nats",
        description="Search cells of the NATS-Bench space on CIFAR-10. "
        "Finished parts are kept in the folder; repeat the command to resume.",
    )
    add_settings(parser, Settings())
    parser.add_argument(
        "--methods",
        default=",".join(METHODS),
        help=f"comma-separated subset of {', '.join(METHODS)}",
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/rarts-nats"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every method and seed that is not in results.jsonl yet."""
    chosen = vars(options().parse_args(arguments))
    out, names = chosen.pop("out"), chosen.pop("methods").split(",")
    seeds = range(chosen.pop("seeds"))
    keys = [{"seed": seed, "method": name} for seed in seeds for name in names]
    torch.set_num_threads(chosen.pop("threads"))
    settings, console = Settings(**chosen), Console()
    tables = NatsTables()  # said before the searches where they are not there
    begun = folder_of(out / "searches", settings)
    begun.mkdir(parents=True, exist_ok=True)
    with progress(console) as bars:

        def one(seed: int, method: str) -> dict[str, Any]:
            bar = bars.add_task(f"seed {seed}, {method}", total=total_steps(method, settings))
            checkpoint = begun / f"{method}-{seed}.safetensors"
            found = run(method, seed, settings, partial(bars.advance, bar), checkpoint)
            return {
                "cell": found.genotype.text,
                "perturbed": found.perturbed.text,
                "validation": found.validation,
                "seconds": found.seconds,
                "history": found.history,
            }

        rows = completed(out / "results.jsonl", settings, keys, one)
    shutil.rmtree(begun)
    looked_up = [found for row in rows for found in final(row, tables)]
    every = [tables.genotype(number) for number in range(CELLS)]
    errors = np.array([100 - tables.accuracy(cell) for cell in every])
    able = np.array(["none" not in cell.operations for cell in every])
    text = (
        f"{page(looked_up)}\n\nMedian error of all {CELLS:,} cells: {np.median(errors):.2f} %; of "
        f"the {able.sum():,} without `none`: {np.median(errors[able]):.2f} %.\n"
    )
    shown = [row for row in looked_up if row["choice"] == "never none"]
    write(out / "space.png", png(space(shown, errors[able])))
    if later := [found for row in rows for found in over_steps(row, tables, steps(settings))]:
        text += f"\n{steps_table(later)}\n"
        write(out / "steps.png", png(on_the_way(later)))
        relaxed = [row for row in rows if row["seed"] == 0 and row["history"]]
        write(out / "alpha.png", png(movement(relaxed)))
    show(out, text)


if __name__ == "__main__":
    main()
