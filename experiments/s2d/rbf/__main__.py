"""The command; `python -m experiments.s2d.rbf --help`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from experiments.s2d.rbf.arms import Settings
from experiments.s2d.rbf.figure import figure
from experiments.s2d.rbf.study import run
from experiments.s2d.rbf.table import page, summary, write


def options() -> argparse.ArgumentParser:
    """What the command takes."""
    usual = Settings()
    parser = argparse.ArgumentParser(prog="python -m experiments.s2d.rbf", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="true functions, at least 2")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--out", type=Path, default=Path("runs/s2d-rbf"), help="folder to write")
    parser.add_argument(
        "--iterations", type=int, default=usual.iterations, help="Adam steps a phase"
    )
    parser.add_argument("--step", type=float, default=usual.step, help="ε, the size of a split")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all seeds and write results.json, results.md and figure.png."""
    parser = options()
    chosen = parser.parse_args(arguments)
    if chosen.seeds < 2:
        parser.error("--seeds is at least 2, because the table holds standard deviations")
    if chosen.iterations < 1 or chosen.jobs < 1 or chosen.step <= 0:
        parser.error("--iterations and --jobs are at least 1, and --step is above 0")
    settings = Settings(iterations=chosen.iterations, step=chosen.step)
    console, started = Console(), time.monotonic()
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    results = run(seeds, settings, chosen.jobs, console)
    seconds = time.monotonic() - started
    text = page(results, settings, seconds)
    held = {"settings": asdict(settings), "seconds": seconds, "summary": summary(results)}
    chosen.out.mkdir(parents=True, exist_ok=True)
    write(chosen.out / "results.json", json.dumps({**held, "seeds": results}) + "\n")
    write(chosen.out / "figure.png", figure(results, settings))
    write(chosen.out / "results.md", text)
    console.print(Markdown(text))
    console.print(f"results.md, results.json and figure.png are in {chosen.out}")


if __name__ == "__main__":
    main()
