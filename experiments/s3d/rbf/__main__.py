"""The command line; see `python -m experiments.s3d.rbf --help`."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.s2d.rbf.command import Study, command
from experiments.s3d.rbf.figure import figure
from experiments.s3d.rbf.study import run_seed, total_iterations
from experiments.s3d.rbf.table import page, summary

STUDY = Study("s3d.rbf", run_seed, total_iterations, summary, page, figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all seeds and write results.json, results.md and figure.png."""
    command(STUDY, arguments)


if __name__ == "__main__":
    main()
