"""Drawings of cells and of mixing weights: a figure shows what it was given."""

import re
from xml.etree import ElementTree

import numpy as np

from ramify.report.cell_figures import (
    CellEdge,
    cell_figure,
    mixing_figure,
    operation_in_words,
    operation_kind,
)
from ramify.report.theme import DARK, LIGHT, svg

OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "sep_conv_3x3", "own_thing")


def cell() -> tuple[list[str], list[CellEdge]]:
    nodes = ["c₀", "0", "1", "cₖ"]
    edges = [CellEdge("c₀", "0", name) for name in OPERATIONS[:3]]
    edges += [CellEdge("0", "1", "sep_conv_3x3"), CellEdge("c₀", "1", "own_thing")]
    return nodes, [*edges, CellEdge("0", "cₖ", None), CellEdge("1", "cₖ", None)]


def test_operations_have_a_kind_and_words() -> None:
    kinds = [operation_kind(name) for name in ("nor_conv_3x3", "dil_conv_5x5", "skip_connect")]
    assert kinds == ["conv", "dil", "skip"]
    words = [operation_in_words(name) for name in ("max_pool_3x3", "skip_connect", "nor_conv_1x1")]
    assert words == ["max pool 3×3", "skip", "conv 1×1"]


def test_the_figure_names_nodes_and_operations() -> None:
    text = svg(cell_figure(*cell()), "a cell")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert sorted(texts) == sorted(
        ["c₀", "0", "1", "cₖ", "none", "skip", "avg pool 3×3", "sep conv 3×3", "own thing"]
    )
    for kind in ("none", "skip", "avg", "sep", "other"):
        assert LIGHT[f"op-{kind}"] in text


def test_a_drawing_has_both_palettes() -> None:
    text = svg(cell_figure(*cell()), "a <cell>")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in text
    assert "a &lt;cell&gt;" in text
    for role in ("card", "ink", "op-sep", "op-skip"):
        assert f"fill: {LIGHT[role]}" in text or f"stroke: {LIGHT[role]}" in text
        assert DARK[role] in text


def test_mixing_weights_over_time() -> None:
    edges = [("a", "0"), ("b", "0"), ("a", "1"), ("b", "1"), ("0", "1")]
    draw = np.random.default_rng(0)
    weights = draw.dirichlet(np.ones(3), size=(7, 5))
    names = ["none", "skip_connect", "sep_conv_3x3"]
    figure = mixing_figure(edges, names, weights.tolist(), {("b", "1"): "sep_conv_3x3"})
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert list(panels) == ["a → 0", "b → 0", "a → 1", "b → 1", "0 → 1"]
    for number, axes in enumerate(panels.values()):
        drawn = np.array([line.get_ydata() for line in axes.lines])
        np.testing.assert_allclose(drawn.T, weights[:, number])
        low, high = axes.get_ylim()
        assert low < drawn.min() <= drawn.max() < high
    widths = [line.get_linewidth() for line in panels["b → 1"].lines]
    assert widths[2] > widths[0] == widths[1]
    assert len({line.get_linewidth() for line in panels["a → 1"].lines}) == 1


def test_operations_of_one_kind_are_told_apart() -> None:
    names = ["nor_conv_1x1", "nor_conv_3x3", "grouped_conv_3x3", "skip_connect"]
    weights = np.full((2, 1, 4), 0.25).tolist()
    figure = mixing_figure([("a", "0")], names, weights, {})
    looks = {repr((line.get_color(), line._dash_pattern)) for line in figure.axes[0].lines}
    assert len(looks) == len(names)
