"""The command of a toy RBF experiment: options, all seeds, and the files written.

Each finished seed is saved in seeds.jsonl; a command with the same settings resumes from there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.files import show, write
from experiments.resume import finished, keep
from experiments.s2d.rbf.arms import TARGETS, Settings
from experiments.s2d.rbf.pool import Result, run

KEPT = "seeds.jsonl"


@dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes:
        name: of the folder under `experiments`, as s2d.rbf.
        run_seed: (seed, settings, tick) -> result of the seed.
        iterations: settings -> Adam steps of one seed.
        summary: results -> the statistics over all seeds.
        page: (results, settings, seconds) -> results.md.
        figure: (results, settings) -> figure.png.
    """

    name: str
    run_seed: Callable[..., Result]
    iterations: Callable[[Settings], int]
    summary: Callable[[Sequence[Result]], dict[str, Any]]
    page: Callable[[Sequence[Result], Settings, float], str]
    figure: Callable[[Sequence[Result], Settings], bytes]


def options(study: Study) -> argparse.ArgumentParser:
    """The command-line options."""
    usual, out = Settings(), Path("runs", study.name.replace(".", "-"))
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{study.name}")
    parser.add_argument(
        "--seeds", type=int, default=10, help="number of seeds (true functions), at least 2"
    )
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path, default=out, help="output folder")
    parser.add_argument(
        "--iterations", type=int, default=usual.iterations, help="Adam steps per phase"
    )
    parser.add_argument("--step", type=float, default=usual.step, help="ε, the size of a split")
    parser.add_argument(
        "--target",
        choices=TARGETS,
        default=usual.target,
        help="signs of the outgoing weights of the target",
    )
    parser.add_argument(
        "--reach", type=float, default=usual.reach, help="the points lie in [-reach, reach]"
    )
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    return parser


def command(study: Study, arguments: Sequence[str] | None) -> None:
    """Run all seeds and write results.json, results.md and figure.png."""
    parser = options(study)
    chosen = parser.parse_args(arguments)
    if chosen.seeds < 2:
        parser.error("--seeds is at least 2, because the table holds standard deviations")
    if chosen.iterations < 1 or chosen.jobs < 1 or min(chosen.step, chosen.reach) <= 0:
        parser.error("--iterations and --jobs are at least 1, and --step and --reach are above 0")
    settings = Settings(
        iterations=chosen.iterations, step=chosen.step, target=chosen.target, reach=chosen.reach
    )
    console, started = Console(), time.monotonic()
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    held = {result["seed"]: result for result in finished(chosen.out / KEPT, settings)}
    missing = [seed for seed in seeds if seed not in held]

    def ended(result: Result) -> None:
        held[result["seed"]] = {"settings": asdict(settings), **result}
        keep(chosen.out / KEPT, settings, [held[seed] for seed in sorted(held)])

    if missing:
        of_seed = partial(study.run_seed, settings=settings)
        run(missing, of_seed, study.iterations(settings), chosen.jobs, console, ended)
    results = [held[seed] for seed in seeds]
    seconds = time.monotonic() - started
    text = study.page(results, settings, seconds)
    numbers = study.summary(results)
    kept = {"settings": asdict(settings), "seconds": seconds, "summary": numbers, "seeds": results}
    write(chosen.out / "results.json", json.dumps(kept) + "\n")
    write(chosen.out / "figure.png", study.figure(results, settings))
    show(chosen.out, text)
    console.print(f"results.md, results.json and figure.png are in {chosen.out}")
