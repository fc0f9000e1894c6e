"""Common parts of both commands: options, resuming, and the files written."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.files import show, write
from experiments.resume import add_settings, finished, folder_of, keep
from experiments.sidt import study, ways
from experiments.sidt.figure import layers


def options(prog: str, text: str, usual: study.Settings) -> argparse.ArgumentParser:
    """The command-line options; every setting of the study is an option of the same name.

    Args:
        prog: the name of the command.
        text: its description.
        usual: the default settings.

    Returns:
        The parser.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{text} Finished parts are kept in the folder; repeat the command to resume.",
    )
    add_settings(parser, usual)
    add = parser.add_argument
    add("--arms", nargs="+", choices=list(ways.ARMS), default=list(ways.USUAL))
    add(
        "--gates",
        nargs="+",
        choices=list(ways.GATES),
        default=["both"],
        help="dimensions that are scored and cut",
    )
    add(
        "--places", nargs="+", choices=list(ways.PLACES), default=["after"],
        help="place of an MLP unit's score: after the activation, or before it as in the thesis",
    )  # fmt: skip
    add(
        "--of",
        choices=ways.MEASURES,
        default=ways.MEASURES[0],
        help="whether a share is of the dimensions or of all parameters",
    )
    add("--ratios", nargs="+", type=float, help="shares to cut")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs") / prog.rpartition(" ")[2])
    return parser


def follow(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    make: Callable[[dict[str, Any], torch.device], study.Task],
    ratios: Sequence[float],
    page: Callable[[Sequence[dict[str, Any]]], str],
) -> None:
    """Run everything that results.jsonl does not contain yet, then write results.md and layers.png.

    Args:
        parser: of the command.
        arguments: of the command line.
        make: (settings by name, device) -> task.
        ratios: default shares to cut; the first two are drawn.
        page: results -> Markdown.
    """
    chosen = vars(parser.parse_args(arguments))
    out, device = chosen.pop("out"), torch.device(chosen.pop("device"))
    seeds, ratios = range(chosen.pop("seeds")), chosen.pop("ratios") or ratios
    torch.set_num_threads(chosen.pop("threads"))
    arms, of, gates, places = (chosen.pop(name) for name in ("arms", "of", "gates", "places"))
    file, console, started = out / "results.jsonl", Console(), time.monotonic()
    task = make(chosen, device)
    every = possible(task, ways.every(arms, ratios, of, gates, places), console)
    out.mkdir(parents=True, exist_ok=True)
    results = finished(file, task.settings)
    known = {(result["seed"], ways.way_of(result)) for result in results}
    stages = folder_of(out / "stages", task.settings)
    todo = [(seed, way) for seed in seeds for way in every if (seed, way) not in known]
    for number, (seed, way) in enumerate(todo, 1):
        results.append(study.run(task, seed, way, stages))
        keep(file, task.settings, results)
        left = (time.monotonic() - started) / number * (len(todo) - number) / 60
        name = next(iter(results[-1]["tuned"]))
        seen = ", ".join(f"{k} {results[-1][k][name]:.1f}" for k in study.MOMENTS)
        console.print(
            f"seed {seed}, {way.title}, {way.ratio:.0%}: {name} {seen}; about {left:.0f} min left",
            highlight=False,
            soft_wrap=True,
        )
    text = page(results)
    drawn = [result for result in results if ways.way_of(result).title == ways.ARMS["rarts"]]
    drawn = [result for result in drawn if ways.way_of(result).of == of]
    if shown := sorted({result["ratio"] for result in drawn})[:2]:
        write(out / "layers.png", layers(drawn, shown, of))
    show(out, text)


def possible(task: study.Task, asked: Sequence[ways.Way], console: Console) -> list[ways.Way]:
    """The ways whose dimensions hold enough parameters to cut; prints a message for the others."""
    known: dict[str, float] = {}
    found = []
    for way in asked:
        if way.ratio and way.of == "parameters":
            if way.gates not in known:
                known[way.gates] = study.most(task, way.gates)
            if way.ratio > known[way.gates]:
                console.print(
                    f"{way.title}: left out at {way.ratio:.0%}, since these dimensions hold "
                    f"{known[way.gates]:.0%} of the parameters.",
                    soft_wrap=True,
                )
                continue
        found.append(way)
    return found
