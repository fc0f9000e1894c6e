"""The command line; see `python -m experiments.gauss_newton.cifar10 --help`."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.files import show, write
from experiments.gauss_newton.cifar10.figure import figure
from experiments.gauss_newton.cifar10.study import ARMS, LATER, Settings, run
from experiments.gauss_newton.cifar10.table import page
from experiments.resume import add_settings, finished, keep


def options() -> argparse.ArgumentParser:
    """The command-line options; every setting of the study is an option of the same name."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gauss_newton.cifar10",
        description="Grow, widen and prune one network to equal parameters in equal steps. "
        "Finished parts are kept in the folder; repeat the command to resume.",
    )
    add_settings(parser, Settings())
    usual = [arm for arm in ARMS if arm not in LATER]
    parser.add_argument(
        "--arms", default=",".join(usual), help=f"comma-separated subset of {', '.join(ARMS)}"
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/gauss-newton-cifar10"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every arm and seed that is not in results.jsonl yet, then write table and figure."""
    parser = options()
    chosen = vars(parser.parse_args(arguments))
    out, jobs, arms = chosen.pop("out"), chosen.pop("jobs"), chosen.pop("arms").split(",")
    if unknown := [arm for arm in arms if arm not in ARMS]:
        parser.error(f"--arms takes some of {', '.join(ARMS)}, and got {', '.join(unknown)}")
    pairs = list(itertools.product(range(chosen.pop("seeds")), arms))
    settings, console, started = Settings(**chosen), Console(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.jsonl"
    results = finished(file, settings)
    known = {(result["seed"], result["arm"]) for result in results}
    todo = [(arm, seed) for seed, arm in pairs if (seed, arm) not in known]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = [pool.submit(run, arm, seed, settings) for arm, seed in todo]
        for number, future in enumerate(as_completed(futures), 1):
            results.append(future.result())
            keep(file, settings, results)
            spent = time.monotonic() - started
            left = spent / number * (len(todo) - number) / 60
            console.print(f"{line(results[-1])}; about {left:.0f} min left", highlight=False)
    text = page(results)
    write(out / "figure.png", figure(results))
    show(out, text)


def line(result: dict[str, Any]) -> str:
    """One line with the result of an arm."""
    accuracy, params = 100 * result["accuracy"], result["params"]
    return f"{result['arm']}, seed {result['seed']}: {accuracy:.1f} %, {params:,} parameters"


if __name__ == "__main__":
    main()
