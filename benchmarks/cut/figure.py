"""The table as a figure: accuracy at each share of the MACs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.cut.torch_pruning import PEER

Row = dict[str, Any]


def draw(rows: Sequence[Row], full: float, file: Path) -> None:
    """Draw `cut` and the best arm of the peer at each share, right after the cut and fine-tuned.

    The best arm has the highest mean test accuracy among the arms and learning rates with the most
    seeds.

    Args:
        rows: rows of `benchmarks.cut`; those on held-out images are left out.
        full: test accuracy of the full network, in percent.
        file: the file to write.
    """
    tested = [row for row in rows if not row["held_out"]]
    ours: Callable[[Row], bool] = lambda row: row["arm"] == "cut"  # noqa: E731
    theirs: Callable[[Row], bool] = lambda row: row["arm"].startswith(PEER)  # noqa: E731
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for which, color, name in (
        (ours, "#1f5fa8", "ramify.cut"),
        (theirs, "#b3532a", "Torch-Pruning, its best criterion"),
    ):
        for tuned, line, when in (
            (True, "-", "2 epochs of fine-tuning"),
            (False, "--", "no training"),
        ):
            some = [row for row in tested if which(row) and bool(row["recipe"]) == tuned]
            x, y, spread = zip((100.0, full, 0.0), *best(some), strict=True)
            axes.errorbar(
                x, y, spread, color=color, linestyle=line, marker="o", ms=4, capsize=2,
                label=f"{name}, {when}",
            )  # fmt: skip
    axes.set_xlabel("multiply-accumulates left, %")
    axes.set_ylabel("test accuracy, %")
    axes.invert_xaxis()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(file, dpi=150)
    plt.close(figure)


def best(rows: Iterable[Row]) -> list[tuple[float, float, float]]:
    """(MACs, accuracy, its standard deviation over seeds) at each share, in percent."""
    cells: dict[float, dict[tuple[str, float], list[Row]]] = {}
    for row in rows:
        rate = row["recipe"]["lr"] if row["recipe"] else 0.0
        cells.setdefault(row["share"], {}).setdefault((row["arm"], rate), []).append(row)
    out = []
    for arms in cells.values():
        most = max(map(len, arms.values()))
        each = [own for own in arms.values() if len(own) == most]
        own = max(each, key=lambda rows: statistics.fmean(row["accuracy"] for row in rows))
        right = [row["accuracy"] for row in own]
        macs = 100 * statistics.fmean(row["macs"] for row in own)
        spread = statistics.stdev(right) if most > 1 else 0.0
        out.append((macs, statistics.fmean(right), spread))
    return sorted(out, reverse=True)
