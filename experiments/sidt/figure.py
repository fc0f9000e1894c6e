"""Figure 4.2: the share of dimensions that each layer keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.files import png
from ramify.report.theme import LIGHT, canvas, themed


def layers(results: Sequence[dict[str, Any]], ratios: Sequence[float], of: str) -> bytes:
    """Bars of the remaining share of every layer, one panel per ratio.

    Args:
        results: of one arm.
        ratios: shares that were cut.
        of: whether shares are of "dimensions" or "parameters".

    Returns:
        A PNG.
    """
    return png(_draw(results, ratios, of))


@themed
def _draw(results: Sequence[dict[str, Any]], ratios: Sequence[float], of: str) -> Figure:
    drawn = canvas(2.6 * len(ratios), gap=0.06)
    panels = drawn.subplots(len(ratios), 1, sharex=True, squeeze=False)[:, 0]
    for axes, ratio in zip(panels, ratios, strict=True):
        mine = [result for result in results if result["ratio"] == ratio]
        names = [short(name) for name in mine[0]["left"]]
        shares = np.array([[kept / full for kept, full in r["left"].values()] for r in mine])
        colors = [LIGHT["arm-wide" if name.endswith("q/k/v") else "accent"] for name in names]
        axes.bar(range(len(names)), shares.mean(0), color=colors, alpha=0.55)
        for row in shares:
            axes.plot(range(len(names)), row, "o", ms=3, color=LIGHT["ink"])
        axes.grid(axis="x", visible=False)
        if of == "dimensions":
            axes.axhline(1 - ratio, color=LIGHT["soft"], lw=1, ls="--")
        axes.set(title=f"{ratio:.0%} of all {of} cut", ylabel="share that remains")
        axes.set(ylim=(0, 1.04), xticks=range(len(names)), xticklabels=names)
    mean = ", the mean of all dashed" if of == "dimensions" else ""
    panels[-1].set_xlabel(f"stage.block and what it has; each seed a dot{mean}")
    return drawn


def short(name: str) -> str:
    """The name of a group as stage.block q/k/v or stage.block MLP, counted from 1."""
    parts = name.split(".")
    stage, block = (int(parts[parts.index(key) + 1]) + 1 for key in ("layers", "blocks"))
    return f"{stage}.{block}\n{'MLP' if 'mlp' in parts else 'q/k/v'}"
