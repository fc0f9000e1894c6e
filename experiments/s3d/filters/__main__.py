"""The command; `python -m experiments.s3d.filters --help`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from experiments.files import png, write
from experiments.s3d.filters.figure import changes, filters, gradient_changes, gradients
from experiments.s3d.filters.study import Settings, study
from ramify.data import load


def main(arguments: Sequence[str] | None = None) -> None:
    """Write filters.png, gradients.png and results.json."""
    usual = Settings()
    parser = argparse.ArgumentParser(prog="python -m experiments.s3d.filters")
    parser.add_argument("--out", type=Path, default=Path("runs/s3d-filters"), help="a folder")
    parser.add_argument("--images", type=int, default=usual.images, help="training images")
    parser.add_argument("--seed", type=int, default=usual.seed, help="the random seed")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    started, console = time.monotonic(), Console()
    settings = Settings(images=chosen.images, seed=chosen.seed)
    pictures = study(load("cifar10"), settings)
    found = changes(pictures)
    radius = torch.tensor(found["radius"])
    correlations = {
        side: float(torch.corrcoef(torch.stack([radius, torch.tensor(found[side])]))[0, 1])
        for side in ("min", "max")
    }
    held = {
        "settings": asdict(settings),
        "seconds": time.monotonic() - started,
        "accuracies": pictures.accuracies,
        "copies_apart": found,
        "correlation_with_radius": correlations,
        "gradient_changes": gradient_changes(pictures),
        "last_radius": pictures.last.radius[pictures.last.shown()].tolist(),
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    write(chosen.out / "results.json", json.dumps(held, indent=1) + "\n")
    write(chosen.out / "filters.png", png(filters(pictures), dpi=110))
    write(chosen.out / "gradients.png", png(gradients(pictures), dpi=110))
    console.print(held)


if __name__ == "__main__":
    main()
