"""The positions of nodes, edges and labels in a cell's drawing: a layered layout by grandalf.

A label is a separate vertex between the two that its edge joins, so that the layout reserves room
for it: no label overlaps another label, a node or another edge. Grandalf arranges layers from top
to bottom (Sugiyama, Tagawa and Toda 1981; Brandes and Köpf 2001); here they go from left to right,
so that its widths are our heights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout, VertexViewer

ROUNDS = 5  # rounds of reordering the layers to reduce crossings
GAPS = (44.0, 9.0)  # between two layers, and between two items of a layer

Point = tuple[float, float]
Size = tuple[float, float]


@dataclass(frozen=True)
class Arrow:
    """An edge to be drawn.

    Attributes:
        source: Number of the node that it leaves.
        target: Number of the node that it enters.
        label: Width and height of its label; None if it has none.
    """

    source: int
    target: int
    label: Size | None


@dataclass(frozen=True)
class Drawing:
    """The positions of a graph's parts, x to the right, y downwards, from (0, 0).

    Attributes:
        nodes: The centre of each node.
        labels: The centre of each edge's label; None for an edge without one.
        paths: For each edge, straight segments (from, to) to be joined by curves that begin and end
            horizontally; its label is on one of them.
        size: Width and height of the whole.
    """

    nodes: list[Point]
    labels: list[Point | None]
    paths: list[list[tuple[Point, Point]]]
    size: Size


def layered(nodes: Sequence[Size], arrows: Sequence[Arrow]) -> Drawing:
    """Lay out an acyclic graph from left to right.

    Args:
        nodes: Width and height of each node; the last one has no outgoing edges.
        arrows: The edges.

    Returns:
        The drawing; the same for the same graph.

    Example:
        >>> drawn = layered([(20, 20), (20, 20)], [Arrow(0, 1, (40, 10))])
        >>> drawn.nodes, drawn.labels
        ([(10.0, 10.0), (158.0, 10.0)], [(84.0, 10.0)])
    """
    vertices = [_vertex(size) for size in nodes]
    middles = [_vertex(arrow.label or (0.0, 0.0)) for arrow in arrows]
    halves = [
        (Edge(vertices[arrow.source], middle), Edge(middle, vertices[arrow.target]))
        for arrow, middle in zip(arrows, middles, strict=True)
    ]
    graph = Graph(vertices + middles, [half for pair in halves for half in pair])
    # A node without outgoing edges gets an invisible edge to the last node.
    for loose in [part for part in graph.C if vertices[-1] not in part.sV]:
        graph.add_edge(Edge(next(iter(loose.sV)), vertices[-1]))
    layout = SugiyamaLayout(graph.C[0])
    layout.yspace, layout.xspace = GAPS
    layout.dw = layout.dh = 0.0  # of an edge that passes a layer
    layout.init_all(roots=[vertex for vertex in vertices if not vertex.e_in()])
    layout.draw(ROUNDS)
    views = [item.view for layer in layout.layers for item in layer]
    top = min(view.xy[0] - view.w / 2 for view in views)
    low = max(view.xy[0] + view.w / 2 for view in views)

    def at(item: Vertex) -> Point:
        return float(item.view.xy[1]), float(item.view.xy[0] - top)

    def stretches(pair: tuple[Edge, Edge]) -> list[tuple[Point, Point]]:
        """The horizontal segments of an edge: across each layer that it passes, and at its ends."""
        passed: dict[int, Vertex] = {}
        for half in pair:  # grandalf records the path of a half only if it is longer than its ends
            ends = {layout.grx[end].rank: end for end in half.v}
            passed |= layout.ctrls.get(half, ends)
        found = []
        for rank, item in sorted(passed.items()):
            x, y = at(item)
            own, whole = item.view.h / 2, max(other.view.h for other in layout.layers[rank]) / 2
            left = x + own if rank == min(passed) else x - whole
            right = x - own if rank == max(passed) else x + whole
            found.append(((left, y), (right, y)))
        return found

    return Drawing(
        nodes=[at(vertex) for vertex in vertices],
        labels=[at(m) if a.label else None for m, a in zip(middles, arrows, strict=True)],
        paths=[stretches(pair) for pair in halves],
        size=(max(view.xy[1] + view.h / 2 for view in views), low - top),
    )


def _vertex(size: Size) -> Vertex:
    vertex = Vertex()
    vertex.view = VertexViewer(w=size[1], h=size[0])
    return vertex
