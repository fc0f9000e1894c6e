"""What both commands share: options, going on from what is finished, and the files written."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.files import show, write
from experiments.resume import add_settings, finished, folder_of, keep
from experiments.sidt import study
from experiments.sidt.figure import layers


def options(prog: str, text: str, usual: study.Settings) -> argparse.ArgumentParser:
    """What a command takes; every setting of the study is an option of its name.

    Args:
        prog: the command.
        text: what it does.
        usual: the settings where nothing is asked for.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{text} What is finished stays in the folder, and the same command goes on "
        "from it.",
    )
    add_settings(parser, usual)
    every = list(study.ARMS)
    parser.add_argument("--arms", nargs="+", choices=every, default=every, help="some of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs") / prog.rpartition(" ")[2])
    return parser


def follow(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    make: Callable[[dict[str, Any], torch.device], study.Task],
    ratios: Sequence[float],
    page: Callable[[Sequence[dict[str, Any]]], str],
) -> None:
    """Run what is not in results.jsonl yet, then write results.md and layers.png.

    Args:
        parser: of the command.
        arguments: of the command line.
        make: settings by name, device -> what is learned.
        ratios: shares of the dimensions to cut; the first two are drawn.
        page: results -> Markdown.
    """
    chosen = vars(parser.parse_args(arguments))
    out, device = chosen.pop("out"), torch.device(chosen.pop("device"))
    seeds, arms = range(chosen.pop("seeds")), chosen.pop("arms")
    torch.set_num_threads(chosen.pop("threads"))
    task = make(chosen, device)
    ways = [(study.FULL, 0.0), *itertools.product(arms, ratios)]
    file, console, started = out / "results.jsonl", Console(), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    results = finished(file, task.settings)
    known = {(result["seed"], result["arm"], result["ratio"]) for result in results}
    stages = folder_of(out / "stages", task.settings)
    todo = [(seed, *way) for seed in seeds for way in ways if (seed, *way) not in known]
    for number, (seed, arm, ratio) in enumerate(todo, 1):
        results.append(study.run(task, seed, arm, ratio, stages))
        keep(file, task.settings, results)
        left = (time.monotonic() - started) / number * (len(todo) - number) / 60
        name = next(iter(results[-1]["tuned"]))
        seen = ", ".join(f"{k} {results[-1][k][name]:.1f}" for k in study.MOMENTS)
        console.print(
            f"seed {seed}, {arm}, {ratio:.0%}: {name} {seen}; about {left:.0f} min left",
            highlight=False,
            soft_wrap=True,
        )
    text = page(results)
    if "rarts" in arms:
        mine = [result for result in results if result["arm"] == "rarts"]
        write(out / "layers.png", layers(mine, ratios[:2]))
    show(out, text)
