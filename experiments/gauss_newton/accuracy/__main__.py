"""The command line; see `python -m experiments.gauss_newton.accuracy --help`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.files import show, write
from experiments.gauss_newton.accuracy.figure import figure
from experiments.gauss_newton.accuracy.study import (
    PLACES,
    RIVALS,
    Settings,
    run,
    summary,
    wins,
)
from experiments.numbers import spread
from experiments.resume import completed, stages


def options() -> argparse.ArgumentParser:
    """The command-line options."""
    usual = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gauss_newton.accuracy",
        description="Compare estimated and true changes of the loss. "
        "Finished parts are kept in the folder; repeat the command to resume.",
    )
    parser.add_argument("--model", default=usual.model, help="a built-in network")
    parser.add_argument("--width", type=int, default=usual.width, help="channels per layer")
    parser.add_argument(
        "--groups",
        default=",".join(usual.groups),
        help=f"groups whose morphisms are applied: names, or {', '.join(PLACES)}",
    )
    parser.add_argument("--samples", type=int, default=usual.samples, help="training images")
    parser.add_argument("--tests", type=int, default=usual.tests, help="test images")
    parser.add_argument("--epochs", type=int, default=usual.epochs, help="epochs of training")
    parser.add_argument(
        "--phase", type=int, default=usual.phase, help="epochs of learning morphisms"
    )
    parser.add_argument(
        "--learners",
        default=",".join(usual.learners),
        help="CURVATURE:RADIUS each, gauss-newton or fisher; a radius of 0 for no bound",
    )
    parser.add_argument("--lr", type=float, default=usual.lr, help="learning rate of the weights")
    parser.add_argument(
        "--schedule", default=usual.schedule, help="learning-rate schedule: constant, steps, cosine"
    )
    parser.add_argument(
        "--rivals",
        type=int,
        default=usual.rivals,
        help="channels on which ways to split are compared (Figure 4)",
    )
    parser.add_argument(
        "--steps", type=int, default=usual.steps, help="Adam steps on each expanded network"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/gauss-newton-accuracy"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what results.jsonl does not contain yet, then write the table and the figure."""
    chosen = vars(options().parse_args(arguments))
    torch.set_num_threads(chosen.pop("threads"))
    out, seeds = chosen.pop("out"), chosen.pop("seeds")
    for name in ("groups", "learners"):
        chosen[name] = chosen[name].split(",")  # a list, as results.jsonl gives it back
    settings, console, started = Settings(**chosen), Console(), time.monotonic()

    def one(seed: int) -> dict[str, Any]:
        def say(line: str) -> None:
            told = f"{time.monotonic() - started:6.0f} s  seed {seed}: {line}"
            console.print(told, highlight=False)

        return run(seed, settings, say, stages(out / "stages" / str(seed), settings))

    rows = completed(out / "results.jsonl", settings, ({"seed": n} for n in range(seeds)), one)
    write(out / "figure.png", figure(rows[0]))
    show(out, page(rows))


def page(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown.

    Args:
        results: of the study, one for each seed.

    Returns:
        A table over learners, kinds and groups, and one over the ways to find a split; means over
        the seeds with their standard deviations.
    """
    held = results[0]["settings"]
    accuracy = spread(100 * result["test_accuracy"] for result in results)
    loss = spread((result["test_loss"] for result in results), 3)
    lines = [
        f"{held['model']} of width {held['width']}, {held['samples']:,} training images, "
        f"{held['epochs']} epochs at learning rate {held['lr']:g} ({held['schedule']}), then "
        f"{held['phase']} epochs of morphisms, {len(results)} seeds; test accuracy {accuracy} %, "
        f"test loss {loss}. True ΔL on {held['tests']:,} test images, and on as many training "
        "images.",
        "",
        "| curvature : radius | kind | group | channels | r | r, training images "
        "| sign right in the top 30 % | true over estimated |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for rows in zip(*(summary(result["points"]) for result in results), strict=True):
        first = rows[0]
        lines.append(
            f"| {first['learner']} | {first['kind']} | {first['group']} | {first['channels']} "
            f"| {spread((row['r'] for row in rows), 3)} "
            f"| {spread((row['r training'] for row in rows), 3)} "
            f"| {spread((100 * row['sign'] for row in rows), 0)} % "
            f"| {spread((row['slope'] for row in rows), 2)} |"
        )
    if results[0]["splits"]:
        lines += [
            "",
            "| way | mean decrease of the loss, test | training images | above line search on "
            "| above expansion on |",
            "|---|---|---|---|---|",
        ]
    for rows in zip(*(wins(result["splits"]) for result in results), strict=True):
        shares = (spread((100 * row[rival] for row in rows), 0) for rival in RIVALS)
        lines.append(
            f"| {rows[0]['way']} | {spread((row['test'] for row in rows), 5)} "
            f"| {spread((row['training'] for row in rows), 5)} "
            f"| {' | '.join(f'{share} %' for share in shares)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
