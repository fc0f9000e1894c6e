"""The command; `python -m experiments.gauss_newton.accuracy --help`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.files import show, write
from experiments.gauss_newton.accuracy.figure import figure
from experiments.gauss_newton.accuracy.study import PLACES, Settings, run, summary, wins
from experiments.resume import stages


def options() -> argparse.ArgumentParser:
    """What the command takes."""
    usual = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gauss_newton.accuracy",
        description="Compare estimated with true changes of the loss. Parts that are finished "
        "stay in the folder, and the same command goes on from them.",
    )
    parser.add_argument("--model", default=usual.model, help="a built-in network")
    parser.add_argument("--width", type=int, default=usual.width, help="channels a layer")
    parser.add_argument(
        "--groups",
        default=",".join(usual.groups),
        help=f"groups whose morphisms are really applied: names, or {', '.join(PLACES)}",
    )
    parser.add_argument("--samples", type=int, default=usual.samples, help="training images")
    parser.add_argument("--tests", type=int, default=usual.tests, help="test images")
    parser.add_argument("--epochs", type=int, default=usual.epochs, help="epochs of training")
    parser.add_argument("--phase", type=int, default=usual.phase, help="epochs of morphisms")
    parser.add_argument("--radius", type=float, default=usual.radius, help="of v; 0 for none")
    parser.add_argument(
        "--curvature", default=usual.curvature, help="of the estimate: gauss-newton or fisher"
    )
    parser.add_argument("--lr", type=float, default=usual.lr, help="of the weights")
    parser.add_argument(
        "--schedule", default=usual.schedule, help="of the learning rate: constant, steps, cosine"
    )
    parser.add_argument(
        "--rivals", type=int, default=usual.rivals, help="channels to compare ways on (Figure 4)"
    )
    parser.add_argument(
        "--steps", type=int, default=usual.steps, help="of Adam on each expanded network"
    )
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/gauss-newton-accuracy"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not in the folder yet, and write results.json, results.md and figure.png."""
    chosen = vars(options().parse_args(arguments))
    torch.set_num_threads(chosen.pop("threads"))
    out: Path = chosen.pop("out")
    chosen["groups"] = tuple(chosen["groups"].split(","))
    settings, console, started = Settings(**chosen), Console(), time.monotonic()

    def say(line: str) -> None:
        console.print(f"{time.monotonic() - started:6.0f} s  {line}", highlight=False)

    result = run(settings, say, stages(out / "stages", settings))
    text = page(result, time.monotonic() - started)
    out.mkdir(parents=True, exist_ok=True)
    write(out / "results.json", json.dumps(result) + "\n")
    write(out / "figure.png", figure(result))
    show(out, text)


def page(result: dict[str, Any], seconds: float) -> str:
    """The results as Markdown.

    Args:
        result: of the study.
        seconds: that it took.

    Returns:
        A table of each group and kind, and the wins among the ways of finding a split.
    """
    held = result["settings"]
    lines = [
        f"{held['model']} of width {held['width']}, {held['samples']:,} training images, "
        f"{held['epochs']} epochs at learning rate {held['lr']:g} ({held['schedule']}), then "
        f"{held['phase']} epochs of morphisms, curvature {held['curvature']}, radius "
        f"{held['radius']:g}, seed {held['seed']}; test accuracy "
        f"{100 * result['test_accuracy']:.1f} %, test loss {result['test_loss']:.3f}. True ΔL on "
        f"{held['tests']:,} test images. "
        f"{seconds / 60:.1f} minutes.",
        "",
        "| group | kind | channels | r | sign right in the top 30 % | true over estimated |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['group']} | {row['kind']} | {row['channels']} | {row['r']:.3f} "
        f"| {100 * row['sign']:.0f} % | {row['slope']:.2f} |"
        for row in summary(result["points"])
    ]
    if result["rivals"]:
        lines += ["", "| way | mean decrease | best of the three on | above line search on |"]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {row['way']} | {row['mean']:.5f} | {row['best']} | {row['above']} |"
            for row in wins(result["rivals"])
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
