"""The command line; see `python -m experiments.s3d.filters --help`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.files import png, show, write
from experiments.resume import stages
from experiments.s3d.filters.figure import changes, filters, gradient_changes, gradients
from experiments.s3d.filters.study import Settings, study
from ramify.data import load


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing parts; write filters.png, gradients.png, results.json and results.md."""
    usual = Settings()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.s3d.filters",
        description="Split the filters of a small network along the extreme eigenvectors. "
        "Finished parts are kept in the folder; repeat the command to resume.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/s3d-filters"), help="output folder")
    parser.add_argument("--images", type=int, default=usual.images, help="training images")
    parser.add_argument("--seed", type=int, default=usual.seed, help="the random seed")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    settings = Settings(images=chosen.images, seed=chosen.seed)
    pictures = study(load("cifar10"), settings, stages(chosen.out / "stages", settings))
    found = changes(pictures)
    radius = torch.tensor(found["radius"])
    correlations = {
        side: float(torch.corrcoef(torch.stack([radius, torch.tensor(found[side])]))[0, 1])
        for side in ("min", "max")
    }
    held = {
        "settings": asdict(settings),
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
    show(chosen.out, page(held))
    Console().print(f"results.md, results.json and both pictures are in {chosen.out}")


def page(held: dict[str, Any]) -> str:
    """The results as Markdown.

    Args:
        held: the contents of results.json.

    Returns:
        Accuracies, and tables of all filters of the first layer and the shown filters of the last.
    """
    before, *after = (f"{100 * accuracy:.1f}" for accuracy in held["accuracies"])
    apart, correlations = held["copies_apart"], held["correlation_with_radius"]
    lines = [
        f"Test accuracy {before} % before the split, {' and '.join(after)} % after training on.",
        "",
        "| first layer, filter | ρ | copies apart along v_min | along v_max |",
        "|---|---|---|---|",
    ]
    rows = zip(apart["radius"], apart["min"], apart["max"], strict=True)
    lines += [f"| {n} | {r:.3g} | {a:.2f} | {b:.2f} |" for n, (r, a, b) in enumerate(rows)]
    lines += [f"| correlation with ρ | | {correlations['min']:.2f} | {correlations['max']:.2f} |"]
    lines += ["", "| last layer, ρ | change of its guided gradients |", "|---|---|"]
    changed = zip(held["last_radius"], held["gradient_changes"], strict=True)
    lines += [f"| {radius:.3g} | {change:.2f} |" for radius, change in changed]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
