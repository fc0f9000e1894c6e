"""The pictures of S3D, Figure 4."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.s3d.filters.study import PAIRS, Extremes, Pictures

SETTINGS: dict[Any, Any] = {"font.size": 8, "text.color": "#1d2420", "axes.titlesize": 8}
PLACES = ((1, 1), (0, 0), (2, 0), (0, 2), (2, 2))  # as it is, ±v_min to the left, ±v_max right
COLORS = ("#0f7a5f", "#c4641b")  # of v_min and v_max


def filters(pictures: Pictures) -> Figure:
    """Filters of the first layer: before the split, both directions, the copies, after training.

    Args:
        pictures: the result of the study.

    Returns:
        One row per filter, those with the largest spectral radius on top.
    """
    shown = pictures.first.shown()
    heads = ("direction", "copy 1", "copy 2", "trained 1", "trained 2")
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9.6, 1.0 * len(shown) + 0.5), layout="constrained")
        grid = figure.subplots(len(shown), 11)
        for row, channel in zip(grid, shown, strict=True):
            _show(row[0], pictures.first.filters[channel])
            row[0].set_ylabel(f"ρ = {pictures.first.radius[channel]:.1e}")
            for side in (0, 1):
                images = (
                    pictures.first.directions[side, channel],
                    *pictures.copies[side, :, channel],
                    *pictures.trained[side, :, channel],
                )
                for axes, image in zip(row[1 + 5 * side : 6 + 5 * side], images, strict=True):
                    _show(axes, image, COLORS[side])
        for axes, head in zip(grid[0], ("before", *heads, *heads), strict=True):
            axes.set_title(head)
        figure.supxlabel("left: split along v_min (green); right: along v_max (orange)")
    return figure


def gradients(pictures: Pictures) -> Figure:
    """Guided gradients of filters of the last layer: unchanged in the middle, moved around it.

    Args:
        pictures: the result of the study.

    Returns:
        The image, then one panel per filter, those with the largest spectral radius first.
    """
    shown = pictures.last.shown()
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(2.2 * (1 + len(shown)), 2.6), layout="constrained")
        panels = figure.subfigures(1, 1 + len(shown), squeeze=False)[0]
        axes = panels[0].subplots()
        _show(axes, pictures.image.flatten(), side=pictures.image.shape[1])
        axes.set_title("the image")
        for panel, channel, images in zip(panels[1:], shown, pictures.gradients, strict=True):
            panel.suptitle(title(pictures.last, channel), fontsize=8)
            grid = panel.subplots(3, 3)
            for axes in grid.flat:
                axes.set_axis_off()
            for number, (place, image) in enumerate(zip(PLACES, images, strict=True)):
                grid[place].set_axis_on()
                color = COLORS[(number - 1) // 2] if number else "#1d2420"
                _show(grid[place], image.flatten(), color, image.shape[1])
    return figure


def title(extremes: Extremes, channel: int) -> str:
    """Both extreme eigenvalues of a filter."""
    low, high = extremes.values[:, channel].tolist()
    return f"λ_min {low:.1e}, λ_max {high:.1e}"


def changes(pictures: Pictures) -> dict[str, list[float]]:
    """The final distance of the two copies of each filter over the filter's norm, together with ρ.

    Args:
        pictures: the result of the study.

    Returns:
        ``radius``, and ``min`` and ``max`` for the two directions; W numbers each.
    """
    norms = pictures.first.filters.norm(dim=1)
    apart = (pictures.trained[:, 0] - pictures.trained[:, 1]).norm(dim=2) / norms
    low, high = apart.tolist()
    return {"radius": pictures.first.radius.tolist(), "min": low, "max": high}


def gradient_changes(pictures: Pictures) -> list[float]:
    """The mean relative change of the guided gradients when each shown filter is moved."""
    found = []
    for images in pictures.gradients:
        moved = (images[1:] - images[0]).flatten(1).norm(dim=1).mean()
        found.append(float(moved / images[0].norm()))
    assert len(found) == 2 * PAIRS
    return found


def _show(axes: Axes, values: Tensor, color: str = "#1d2420", side: int = 7) -> None:
    image = values.view(3, side, side).permute(1, 2, 0)
    largest = float(image.abs().max()) or 1.0
    axes.imshow((0.5 + 0.5 * image / largest).clamp(0, 1).numpy())
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(color)
