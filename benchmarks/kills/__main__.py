"""`python -m benchmarks.kills --trials 40`: kill and resume commands, and compare the results."""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.kills.commands import COMMANDS
from benchmarks.kills.trial import Trial, Whole, run, whole


def options() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--trials", type=int, default=40, help="over all commands in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--only", choices=COMMANDS, action="append", help="this command alone")
    parser.add_argument("--out", type=Path, help="a file to which each trial is added as a line")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials, and print a table."""
    asked = options().parse_args(arguments)
    torch.set_num_threads(1)
    for module in ("ramify.cli.runs", "ramify.report.page"):
        importlib.import_module(module)  # so that forked processes have all modules
    names, trials = asked.only or list(COMMANDS), list[Trial]()
    with tempfile.TemporaryDirectory() as place:
        sources = Path(place) / "whole"
        sources.mkdir()
        known: dict[str, Whole] = {}
        for number in range(asked.trials):
            name, seed = names[number % len(names)], asked.seed + number
            for needed in filter(None, (COMMANDS[name].source, name)):
                if needed not in known:
                    known[needed] = whole(needed, sources / needed, sources)
            began = time.monotonic()
            folder = Path(place) / f"trial-{seed}"
            trials.append(run(name, seed, folder, sources, known[name]))
            line = json.dumps(trials[-1].as_json())
            if asked.out is not None:
                with asked.out.open("a") as file:
                    file.write(line + "\n")
            last = trials[-1]
            print(
                f"{seed}: {name}: {last.outcome} after {last.kills} kills, "
                f"{time.monotonic() - began:.0f} s",
                *last.said,
                flush=True,
            )
    print(table(trials))


def table(trials: Sequence[Trial]) -> str:
    """A Markdown table with one row per command."""
    heads = "| command | trials | kills | begun again | two at once | one refused | same bits |"
    lines = [heads, "|---|" + "---|" * 6]
    for name in (*COMMANDS, "all"):
        own = [trial for trial in trials if name in (trial.command, "all")]
        counts = [
            len(own),
            *(sum(getattr(t, key) for t in own) for key in ("kills", "again", "twice", "refused")),
            sum(trial.outcome == "same" for trial in own),
        ]
        lines += ["| " + " | ".join([name, *map(str, counts)]) + " |"] if own else []
    return "\n".join(lines)


if __name__ == "__main__":
    main()
