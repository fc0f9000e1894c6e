"""The pictures of Figure 2: the family tree, and eigenvalues against the decreases by splits."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from torch import Tensor

from experiments.s2d.prototype.study import Grown, Trial, correlation
from ramify.report.lineage import Lineage, lineages

SIDE = 28  # pixels of an image each way
LINE, INK = "#9fb3a8", "#1d2420"
Node = tuple[int, int]  # (round, prototype)


def tree(grown: Grown) -> Figure:
    """Every prototype at the time of its split and at the end; rounds from top to bottom.

    Args:
        grown: the run.

    Returns:
        One panel; next to each image the class with the most votes of the prototype.
    """
    (line,) = lineages([event for event in grown.events if event["event"] == "edit"])
    count = len(grown.images)
    with mpl.rc_context({"font.size": 8, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(0.72 * count, 0.55 * count), layout="constrained")
        axes = figure.subplots()
        for node in _nodes(line):
            for child in line.children(node[0])[node[1]] if node[0] < count - 1 else []:
                below = _shown(line, (node[0] + 1, child))
                axes.plot(*zip(_spot(line, node), _spot(line, below), strict=True), color=LINE)
            _draw(axes, grown, line, node)
        axes.set_xlim(0, line.extent)
        axes.set_ylim(count - 0.2, -0.8)
        axes.set_yticks(range(count), [str(number + 1) for number in range(count)])
        axes.set_ylabel(
            "prototypes in the network; an image stands where it is split, or at the end"
        )
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def _shown(line: Lineage, node: Node) -> Node:
    """The node itself if it splits or is final, otherwise the same prototype in a later round."""
    level, channel = node
    while level < len(line.parents):
        children = line.children(level)[channel]
        if len(children) > 1:
            break
        level, channel = level + 1, children[0]
    return level, channel


def _nodes(line: Lineage) -> Iterator[Node]:
    """The drawn nodes: every prototype that splits, and those of the last round."""
    for level, row in enumerate(line.heights):
        yield from ((level, c) for c in range(len(row)) if _shown(line, (level, c)) == (level, c))


def _spot(line: Lineage, node: Node) -> tuple[float, float]:
    return line.heights[node[0]][node[1]], node[0]


def _draw(axes: Axes, grown: Grown, line: Lineage, node: Node) -> None:
    level, channel = node
    _thumbnail(axes, grown.images[level][channel], _spot(line, node))
    axes.annotate(
        str(int(grown.votes[level][channel])),
        _spot(line, node),
        xytext=(22, -15),
        textcoords="offset points",
        va="center",
        ha="center",
    )


def _thumbnail(axes: Axes, image: Tensor, spot: tuple[float, float]) -> None:
    picture = OffsetImage(image.view(SIDE, SIDE).numpy(), zoom=1.25, cmap="gray")
    axes.add_artist(AnnotationBbox(picture, spot, pad=0.1, bboxprops={"edgecolor": LINE}))


def splits(grown: Grown, trials: Mapping[int, Sequence[Trial]]) -> Figure:
    """The eigenvalue of each of five prototypes, and the decrease of the loss by splitting it.

    Args:
        grown: the run of the first seed.
        trials: seed -> one split of each prototype.

    Returns:
        A panel of the first seed, where each point is the image of its prototype; with several
        seeds, also a panel of all points, with a line for each seed.
    """
    seed, first = next(iter(trials.items()))
    panels = 1 if len(trials) == 1 else 2
    with mpl.rc_context({"font.size": 8.5, "text.color": INK, "axes.labelcolor": INK}):
        figure = Figure(figsize=(4.8 * panels, 3.6), layout="constrained")
        images, *others = figure.subplots(1, panels, squeeze=False)[0]
        for trial in first:
            image = grown.images[len(first) - 1][trial.channel]
            _thumbnail(images, image, (trial.index, trial.decrease))
        images.update_datalim([(trial.index, trial.decrease) for trial in first])
        images.margins(0.2)
        images.autoscale_view()
        images.set_title(f"seed {seed}: r = {correlation(first):.2f}", loc="left")
        for axes in others:
            _every_seed(axes, trials)
        for axes in (images, *others):
            axes.set_xlabel("smallest eigenvalue λ of the splitting matrix")
            axes.set_ylabel("decrease of the loss after training on")
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def _every_seed(axes: Axes, trials: Mapping[int, Sequence[Trial]]) -> None:
    """The points of every seed, and the line of least squares through them."""
    for held in trials.values():
        x, y = zip(*((trial.index, trial.decrease) for trial in held), strict=True)
        (points,) = axes.plot(x, y, "o", ms=4)
        slope, level = statistics.linear_regression(x, y)
        ends = min(x), max(x)
        axes.plot(ends, [level + slope * end for end in ends], color=points.get_color(), lw=1)
    axes.set_title(f"all {len(trials)} seeds, one colour each", loc="left")
