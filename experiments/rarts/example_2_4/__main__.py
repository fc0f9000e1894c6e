"""The command line; see `python -m experiments.rarts.example_2_4 --help`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from experiments.files import png, show, write
from experiments.rarts.example_2_4.figure import figure
from experiments.rarts.example_2_4.study import (
    OTHERS,
    Descent,
    Limit,
    descents,
    limits,
    other_path,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, and write tables and figure."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.rarts.example_2_4",
        description="The solvable model of the RARTS thesis: limits, descent, and Figure 2.1.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/rarts-example-2-4"), help="output folder"
    )
    out = parser.parse_args(arguments).out
    torch.set_num_threads(1)
    at_rest, falling = list(limits()), list(descents())
    text = page(at_rest, falling)
    write(out / "figure.png", png(figure(at_rest, falling), dpi=110))
    show(out, text)


def page(at_rest: Sequence[Limit], falling: Sequence[Descent]) -> str:
    """The tables as Markdown."""
    lines = ["| λ | β | w | u | α | off the closed form | error | over 1/λ + 1/β | steps |"]
    lines += ["|" + "---|" * 9] + [_limit_row(limit) for limit in at_rest]
    lines += ["", "| searcher | w | α | α by hand |", "|---|---|---|---|"]
    for name, (_, _, expected) in OTHERS.items():
        alpha, w = other_path(name)[-1]
        lines.append(f"| {name} | {w:.8f} | {alpha:.8f} | {expected:.8f} |")
    lines += ["", "| λ | β | steps | largest rise of L | ratio of gaps | by the Jacobian | bound |"]
    lines += ["|" + "---|" * 7]
    lines += [
        f"| {d.lam:g} | {d.beta:g} | {len(d.gaps)} | {d.rise:.0e} | {d.measured:.6f} "
        f"| {d.predicted:.6f} | {d.corollary:.6f} |"
        for d in falling
    ]
    return "\n".join(lines) + "\n"


def _limit_row(limit: Limit) -> str:
    point = " | ".join(f"{value:.8f}" for value in limit.found)
    return (
        f"| {limit.lam:g} | {limit.beta:g} | {point} | {limit.deviation:.0e} "
        f"| {limit.error:.4f} | {limit.ratio:.3f} | {limit.steps} |"
    )


if __name__ == "__main__":
    main()
