"""The command line; see `python -m experiments.s2d.rbf --help`."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.s2d.rbf.command import Study, command
from experiments.s2d.rbf.figure import figure
from experiments.s2d.rbf.study import run_seed, total_iterations
from experiments.s2d.rbf.table import page, summary

STUDY = Study("s2d.rbf", run_seed, total_iterations, summary, page, figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all seeds and write results.json, results.md and figure.png."""
    command(STUDY, arguments)


if __name__ == "__main__":
    main()
