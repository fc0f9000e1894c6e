"""Layered drawings of small directed graphs whose edges carry labels: where everything stands.

A label is an item of a column of its own between those of the nodes, and an edge that passes a
column is an item of it too, without width. Items of one column never overlap and curves run only
between columns, so no label lies on another, on a node or on an edge that is not its own. After
Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures"
(1981), in four steps: columns, order within them, heights, widths.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear

STARTS = 12  # orders to begin the search for few crossings from
SWEEPS = 12  # at most, each over all columns
STRAIGHT = np.array([1.0, 3.0, 9.0])  # how stiff a link is, by its ends that have no size
GAPS = (26.0, 74.0)  # between columns
SLOPE = 0.5  # of a gap: for one unit that a curve rises in it
ROOMY = 1.8  # of the gap: between two nodes
PORTS = 7.0  # between two edges that enter a node
FLATTENED, FIRM = 8, 20.0  # rounds that leave few bends in long edges, and how stiff those are

Point = tuple[float, float]
Size = tuple[float, float]


@dataclass(frozen=True)
class Arrow:
    """An edge to be drawn.

    Attributes:
        source: Number of the node that it leaves.
        target: Of the node that it enters.
        label: Width and height of its label; None where it has none.
    """

    source: int
    target: int
    label: Size | None


@dataclass(frozen=True)
class Drawing:
    """Where a graph's parts stand, x to the right, y downwards, from (0, 0).

    Attributes:
        nodes: The centre of each node.
        labels: The centre of each edge's label; None for an edge without one.
        paths: For each edge, straight stretches (from, to) to be joined by curves that leave and
            enter horizontally; its label stands over one of them.
        size: Width and height of the whole.
    """

    nodes: list[Point]
    labels: list[Point | None]
    paths: list[list[tuple[Point, Point]]]
    size: Size


@dataclass
class _Items:
    """Everything that takes room in a column: nodes, then what edges have in columns passed."""

    sizes: list[Size]
    ranks: list[int]
    links: list[tuple[int, int]] = field(default_factory=list)

    def add(self, size: Size, rank: int) -> int:
        self.sizes.append(size)
        self.ranks.append(rank)
        return len(self.sizes) - 1

    def columns(self) -> list[list[int]]:
        return [
            [item for item, rank in enumerate(self.ranks) if rank == column]
            for column in range(max(self.ranks) + 1)
        ]


def layered(nodes: Sequence[Size], arrows: Sequence[Arrow], *, gap: float = 9.0) -> Drawing:
    """Lay out a graph from left to right.

    Args:
        nodes: Width and height of each node.
        arrows: The edges; they make no circle, and their sources come before their targets.
        gap: Between two items of a column, from edge to edge.

    Returns:
        The drawing; the same for the same graph.

    Example:
        >>> drawn = layered([(20, 20), (20, 20)], [Arrow(0, 1, (40, 10))])
        >>> [round(y) for _, y in drawn.nodes], round(drawn.labels[0][0])
        ([10, 10], 66)
    """
    items = _Items(list(nodes), _ranks(len(nodes), arrows))
    chains, labels = _chains(items, arrows)
    columns, heights = _arranged(items, gap)
    xs, width = _across(items, columns, heights)
    top = min(heights[i] - items.sizes[i][1] / 2 for i in range(len(items.sizes)))
    low = max(heights[i] + items.sizes[i][1] / 2 for i in range(len(items.sizes)))
    at = [(xs[rank], heights[i] - top) for i, rank in enumerate(items.ranks)]
    ports = _ports(items, chains, at)
    paths = [
        _stretches(items, columns, chain, [at[item][0] for item in chain], ys)
        for chain, ys in zip(chains, ports, strict=True)
    ]
    return Drawing(
        at[: len(nodes)],
        [None if label is None else at[label] for label in labels],
        paths,
        (width, float(low - top)),
    )


def _ports(
    items: _Items, chains: Sequence[Sequence[int]], at: Sequence[Point]
) -> list[list[float]]:
    """The heights of each edge at its items; those that enter one node do so side by side."""
    heights = [[at[item][1] for item in chain] for chain in chains]
    for node in {chain[-1] for chain in chains}:
        entering = [n for n, chain in enumerate(chains) if chain[-1] == node]
        entering.sort(key=lambda n: heights[n][-2])
        apart = min(PORTS, 0.6 * items.sizes[node][1] / max(len(entering) - 1, 1))
        for place, number in enumerate(entering):
            heights[number][-1] += apart * (place - (len(entering) - 1) / 2)
    return heights


def _stretches(
    items: _Items,
    columns: Sequence[Sequence[int]],
    chain: Sequence[int],
    xs: Sequence[float],
    ys: Sequence[float],
) -> list[tuple[Point, Point]]:
    """Where an edge runs level: across each column that it passes, and up to its ends' sides."""
    stretches = []
    for item, x, y in zip(chain, xs, ys, strict=True):
        half = max(items.sizes[other][0] for other in columns[items.ranks[item]]) / 2
        own = items.sizes[item][0] / 2
        left = x + own if item == chain[0] else x - half
        right = x - own if item == chain[-1] else x + half
        stretches.append(((left, y), (right, y)))
    return stretches


def _ranks(count: int, arrows: Sequence[Arrow]) -> list[int]:
    """The column of each node: even, and right of all that it reads."""
    ranks = [0] * count
    for arrow in sorted(arrows, key=lambda arrow: arrow.target):
        ranks[arrow.target] = max(ranks[arrow.target], ranks[arrow.source] + 2)
    return ranks


def _chains(items: _Items, arrows: Sequence[Arrow]) -> tuple[list[list[int]], list[int | None]]:
    """Each edge as the items it goes through, and which of them is its label."""
    # A label goes where fewest stand so far, short edges first, since they have least choice.
    load = dict.fromkeys(range(max(items.ranks) + 1), 0.0)
    spans = [(items.ranks[a.source] + 1, items.ranks[a.target]) for a in arrows]
    chosen: dict[int, int] = {}
    for number in sorted(range(len(arrows)), key=lambda n: spans[n][1] - spans[n][0]):
        first, end = spans[number]
        label = arrows[number].label
        if label is not None:
            middle = (first + end - 1) / 2
            odd = range(first, end, 2)
            chosen[number] = min(odd, key=lambda rank: (load[rank], abs(rank - middle)))
        for rank in range(first, end):
            load[rank] += 1.0 if chosen.get(number) == rank else 0.25
    chains: list[list[int]] = []
    labels: list[int | None] = []
    for number, arrow in enumerate(arrows):
        chain, held = [arrow.source], None
        for rank in range(*spans[number]):
            own = chosen.get(number) == rank
            chain.append(items.add(arrow.label if own and arrow.label else (0.0, 0.0), rank))
            held = chain[-1] if own else held
        chain.append(arrow.target)
        items.links += itertools.pairwise(chain)
        chains.append(chain)
        labels.append(held)
    return chains, labels


def _arranged(items: _Items, gap: float) -> tuple[list[list[int]], list[float]]:
    """The order of each column and the height of each item: few crossings, then short edges."""
    draw = np.random.default_rng(0)
    best: tuple[int, float, list[list[int]]] | None = None
    for start in range(STARTS):
        columns = items.columns()
        if start:
            columns = [[column[i] for i in draw.permutation(len(column))] for column in columns]
        crossings = _untangled(items, columns)
        if best is not None and crossings > best[0]:
            continue
        energy = round(_heights(items, columns, gap)[1], 6)
        if best is None or (crossings, energy) < best[:2]:
            best = crossings, energy, columns
    assert best is not None
    columns = best[2]
    heights, _ = _heights(items, columns, gap, FLATTENED)
    if columns[0] != sorted(columns[0]) and columns[0] == sorted(columns[0], reverse=True):
        return [column[::-1] for column in columns], [-height for height in heights]
    return columns, heights


def _untangled(items: _Items, columns: list[list[int]]) -> int:
    """Reorder the columns in place until no swap helps; returns the crossings that are left."""
    place = {item: number for column in columns for number, item in enumerate(column)}
    near: dict[int, list[int]] = {item: [] for item in place}
    for one, two in items.links:
        near[one].append(two)
        near[two].append(one)
    for sweep in range(SWEEPS):
        before = _crossings(items, place)
        for column in columns if sweep % 2 else columns[::-1]:
            if sweep < 4:
                means = {i: np.mean([place[n] for n in near[i]] or [place[i]]) for i in column}
                column.sort(key=means.__getitem__)
                place.update({item: number for number, item in enumerate(column)})
            _swapped(items, column, place)
        if sweep >= 4 and _crossings(items, place) == before:
            break
    return _crossings(items, place)


def _swapped(items: _Items, column: list[int], place: dict[int, int]) -> None:
    """Swap items of one column wherever fewer crossings come of it."""
    rank = items.ranks[column[0]]
    beside = [link for link in items.links if rank in (items.ranks[link[0]], items.ranks[link[1]])]
    least = _count(beside, items.ranks, place)
    for one, two in itertools.combinations(range(len(column)), 2):
        column[one], column[two] = column[two], column[one]
        place[column[one]], place[column[two]] = one, two
        now = _count(beside, items.ranks, place)
        if now < least:
            least = now
        else:
            column[one], column[two] = column[two], column[one]
            place[column[one]], place[column[two]] = one, two


def _crossings(items: _Items, place: dict[int, int]) -> int:
    return _count(items.links, items.ranks, place)


def _count(links: Sequence[tuple[int, int]], ranks: list[int], place: dict[int, int]) -> int:
    """How many pairs of links between the same two columns cross."""
    ends = np.array([(ranks[one], place[one], place[two]) for one, two in links])
    same = ends[:, None, 0] == ends[None, :, 0]
    turns = (ends[:, None, 1] - ends[None, :, 1]) * (ends[:, None, 2] - ends[None, :, 2]) < 0
    return int((same & turns).sum()) // 2


def _heights(
    items: _Items, columns: Sequence[Sequence[int]], gap: float, rounds: int = 0
) -> tuple[list[float], float]:
    """The height of each item that keeps edges straightest, and how bent they are at first."""
    # Least squares over the rises of all links; each further round weighs those of edges that pass
    # a column by one over their rise: a sum of absolute values has few bends, not many small ones.
    build, base, low = _spaced(items, columns, gap)
    ends = np.array(items.links)
    bends = np.array([sum(not items.sizes[end][0] for end in link) for link in items.links])
    weights, first = STRAIGHT[bends], None
    for _ in range(1 + rounds):
        turn = np.zeros((len(ends) + 1, len(items.sizes)))
        rows = np.arange(len(ends))
        turn[rows, ends[:, 0]], turn[rows, ends[:, 1]] = np.sqrt(weights), -np.sqrt(weights)
        turn[-1, columns[0][0]] = 1e-3  # of all equal drawings, moved up or down, one
        found = lsq_linear(turn @ build, -turn @ base, bounds=(low, np.inf), method="bvls")
        first = float(found.cost) if first is None else first
        heights = build @ found.x + base
        rises = np.abs(heights[ends[:, 0]] - heights[ends[:, 1]])
        weights = np.where(bends > 0, FIRM / (rises + 0.3), 1.0)
    return heights.tolist(), first or 0.0


def _spaced(items: _Items, columns: Sequence[Sequence[int]], gap: float) -> tuple[Any, Any, Any]:
    """Heights as ``build @ x + base`` with ``x >= low``: no two items of a column overlap then."""
    # x holds the height of each column's first item, and by how much further than need be each
    # other one stands from that above it.
    count = len(items.sizes)
    build, base, low = np.zeros((count, count)), np.zeros(count), np.zeros(count)
    for column in columns:
        low[column[0]] = -np.inf
        build[column[0], column[0]] = 1.0
        for above, item in itertools.pairwise(column):
            build[item], build[item, item] = build[above], 1.0
            apart = (items.sizes[above][1] + items.sizes[item][1]) / 2
            apart += gap if items.ranks[item] % 2 else ROOMY * gap
            base[item] = base[above] + apart
    return build, base, low


def _across(
    items: _Items, columns: Sequence[Sequence[int]], heights: Sequence[float]
) -> tuple[list[float], float]:
    """The middle of each column, and the width of the whole."""
    widths = [max(items.sizes[item][0] for item in column) for column in columns]
    rises = [0.0] * len(columns)
    for one, two in items.links:
        rank = items.ranks[one]
        rises[rank] = max(rises[rank], abs(heights[one] - heights[two]))
    xs, right = [], 0.0
    for number, width in enumerate(widths):
        xs.append(right + width / 2)
        right += width
        if number + 1 < len(widths):
            right += min(max(SLOPE * rises[number], GAPS[0]), GAPS[1])
    return xs, right
