"""The command line; see `python -m experiments.rarts.width --help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from experiments.files import show
from experiments.rarts.width.study import (
    LEARNED,
    METHODS,
    SCORED,
    SEARCHED,
    Row,
    Settings,
    Study,
    total_steps,
)
from experiments.rarts.width.table import page
from experiments.resume import add_settings, finished, keep, progress, stages


def options() -> argparse.ArgumentParser:
    """The command-line options; every setting of the study is an option of the same name."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.rarts.width",
        description="Search widths with several methods, prune, and fine-tune. "
        "Finished parts are kept in the folder; repeat the command to resume.",
    )
    add_settings(parser, Settings())
    usual = [*SEARCHED, *SCORED]
    parser.add_argument(
        "--methods", default=",".join(usual), help=f"comma-separated subset of {', '.join(METHODS)}"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/rarts-width"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything that results.jsonl does not contain yet, then write the table."""
    chosen = vars(options().parse_args(arguments))
    out, methods = chosen.pop("out"), chosen.pop("methods").split(",")
    first, count = chosen.pop("first"), chosen.pop("seeds")
    torch.set_num_threads(chosen.pop("threads"))
    settings, console = Settings(**chosen), Console()
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.jsonl"
    rows = finished(file, settings)
    with progress(console) as bars:
        for seed in range(first, first + count):
            known = {row["method"] for row in rows if row["seed"] == seed}
            todo = [name for name in ("baseline", *methods) if name not in known]
            if not todo:
                continue
            bar = bars.add_task(f"seed {seed}", total=total_steps(settings, methods))
            kept = stages(out / "stages", settings)
            study = Study(seed, settings, partial(bars.advance, bar), kept)
            study.ratio = learned(rows, seed)
            for name in todo:
                bars.update(bar, description=f"seed {seed}, {name}")
                found = [study.baseline()] if name == "baseline" else list(study.run(name))
                rows += [row | {"seed": seed, "settings": asdict(settings)} for row in found]
                keep(file, settings, rows)
    text = page(rows)
    show(out, text)


def learned(rows: Sequence[Row], seed: int) -> float | None:
    """The share of channels that RARTS pruned in an earlier call, if its penalty decided it."""
    own = (r for r in rows if r["seed"] == seed and r["method"] == "rarts")
    return next((row["pruned"] for row in own if row["ratio"] == LEARNED), None)


if __name__ == "__main__":
    main()
