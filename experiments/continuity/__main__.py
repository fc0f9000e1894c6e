"""The command line; see `python -m experiments.continuity --help`."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import queue
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from experiments.continuity.figure import figure
from experiments.continuity.networks import NETWORKS, OPTIMIZERS
from experiments.continuity.study import Settings, total_steps, work
from experiments.continuity.table import page
from experiments.files import png, show, write
from experiments.resume import add_settings, finished, keep

POLL = 0.5  # seconds


def options() -> argparse.ArgumentParser:
    """The command-line options; every setting of the study is an option of the same name."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.continuity",
        description="Edit networks during training, with and without their optimizer state. "
        "Finished parts are kept in the folder; repeat the command to resume.",
    )
    add_settings(parser, Settings())
    parser.add_argument(
        "--networks",
        default=",".join(NETWORKS),
        help=f"comma-separated subset of {', '.join(NETWORKS)}",
    )
    parser.add_argument(
        "--optimizers",
        default=",".join(OPTIMIZERS),
        help=f"comma-separated subset of {', '.join(OPTIMIZERS)}",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/continuity"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything that results.jsonl does not contain yet, then write table and figure."""
    chosen = vars(options().parse_args(arguments))
    out, jobs, seeds = (chosen.pop(name) for name in ("out", "jobs", "seeds"))
    kinds = [chosen.pop(name).split(",") for name in ("optimizers", "networks")]
    settings, console = Settings(**chosen), Console()
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.jsonl"
    results = finished(file, settings)
    known = {(result["optimizer"], result["network"], result["seed"]) for result in results}
    todo = [key for key in itertools.product(*kinds, range(seeds)) if key not in known]
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, Progress(console=console) as progress:
        ticks = manager.Queue()
        total = sum(total_steps(key[0], settings) for key in todo)
        bar = progress.add_task("training", total=total)
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            waiting = {pool.submit(work, key, settings, ticks) for key in todo}
            try:
                while waiting:
                    done, waiting = wait(waiting, timeout=POLL)
                    progress.advance(bar, _drained(ticks))
                    for result in (future.result() for future in done):  # one failed ends it all
                        results.append(result)
                        results.sort(key=lambda r: (r["network"], r["optimizer"], r["seed"]))
                        keep(file, settings, results)
            except BaseException:
                pool.shutdown(cancel_futures=True, wait=False)
                raise
    text = page(results)
    write(out / "figure.png", png(figure(results), dpi=110))
    show(out, text)


def _drained(ticks: queue.Queue[int]) -> int:
    count = 0
    while not ticks.empty():
        count += ticks.get()
    return count


if __name__ == "__main__":
    main()
