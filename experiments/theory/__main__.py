"""The command line; see `python -m experiments.theory --help`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.files import png, show, write
from experiments.resume import add_settings, finished, keep
from experiments.theory import convex, curvature, neurons, noise, particles
from experiments.theory.figure import figure
from experiments.theory.table import page


@dataclass(frozen=True)
class Settings:
    """The settings of the command.

    Attributes:
        places: number of positions for the mass of a particle, odd.
        draws: number of networks on which the lemma is checked.
        splits: maximum number of splits on the way to a small loss.
        chains: number of independent runs of RARTS at each learning rate.
        steps: number of steps of a run at the largest learning rate, and of the convex one.
        problems: number of least-squares problems of each rank.
    """

    places: int = 81
    draws: int = 400
    splits: int = 150
    chains: int = 400
    steps: int = 1000
    problems: int = 1000


def parts(settings: Settings) -> dict[str, Callable[[], Any]]:
    """The parts to compute, by name."""
    return {
        "particles": lambda: particles.study(settings.places),
        "neurons": lambda: neurons.study(settings.draws, settings.splits),
        "noise": lambda: noise.study(settings.chains, settings.steps),
        "convex": lambda: convex.study(settings.steps),
        "curvature": lambda: curvature.study(settings.problems),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute the missing parts, and write results.md and figure.png."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.theory",
        description="S2D, Theorem 2.5; S3D, Lemma 3.2, Theorems 3.4 and B.1; RARTS thesis, "
        "Corollaries 2.6 and 2.8; Gauss-Newton, Theorems 1 and 2.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/theory"), help="output folder")
    add_settings(parser, Settings())
    chosen = vars(parser.parse_args(arguments))
    out = chosen.pop("out")
    settings = Settings(**chosen)
    torch.set_num_threads(1)
    console, file = Console(), out / "results.jsonl"
    for name, study in parts(settings).items():
        held = finished(file, settings)
        if all(result["part"] != name for result in held):
            console.print(f"{name} ...")
            result = {"part": name, "settings": asdict(settings), "found": study()}
            keep(file, settings, [*held, result])
    found = {result["part"]: result["found"] for result in finished(file, settings)}
    text = page(found)
    write(out / "figure.png", png(figure(found), dpi=110))
    show(out, text)
    console.print(f"results.md, results.jsonl and figure.png are in {out}")


if __name__ == "__main__":
    main()
