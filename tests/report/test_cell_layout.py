"""Layouts of cells: nothing lies on anything else, and every edge leads where it should."""

import itertools
import random

import numpy as np
import pytest

from ramify.report.cell_layout import Arrow, Drawing, layered

Box = tuple[float, float, float, float]
NODE, LABEL = (27.0, 27.0), (90.0, 18.0)


def drawn_cell(seed: int, nodes: int, dense: bool) -> tuple[list[Arrow], Drawing]:
    """A cell of two inputs, some intermediate nodes and an output that reads them all."""
    draw = random.Random(seed)
    pairs = [
        (source, target)
        for target in range(2, 2 + nodes)
        for source in (range(target) if dense else sorted(draw.sample(range(target), 2)))
    ]
    arrows = [Arrow(*pair, (draw.choice((40.0, 90.0)), LABEL[1])) for pair in pairs]
    arrows += [Arrow(source, 2 + nodes, None) for source in range(2, 2 + nodes)]
    return arrows, layered([NODE] * (3 + nodes), arrows)


def box(centre: tuple[float, float], size: tuple[float, float]) -> Box:
    (x, y), (width, height) = centre, size
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def curve(stretches: list[tuple[tuple[float, float], tuple[float, float]]]) -> np.ndarray:
    """Points of an edge as it is drawn: level stretches joined by cubic Béziers."""
    t = np.linspace(0, 1, 60)[:, None]
    parts = []
    for (_, left), (right, end) in itertools.pairwise(stretches):
        middle = (left[0] + right[0]) / 2
        corners = np.array([left, (middle, left[1]), (middle, right[1]), right])
        powers = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
        parts.append(sum(p * c for p, c in zip(powers, corners, strict=True)))
        parts.append(np.array(right) * (1 - t) + np.array(end) * t)
    return np.concatenate(parts)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_nothing_lies_on_anything_else(seed: int, dense: bool) -> None:
    arrows, drawn = drawn_cell(seed, 4, dense)
    boxes = [box(at, NODE) for at in drawn.nodes]
    owner: list[int | None] = [None] * len(boxes)
    for number, (arrow, at) in enumerate(zip(arrows, drawn.labels, strict=True)):
        if arrow.label is not None and at is not None:
            boxes.append(box(at, arrow.label))
            owner.append(number)
    assert len(boxes) == len(drawn.nodes) + sum(arrow.label is not None for arrow in arrows)
    for one, two in itertools.combinations(boxes, 2):
        apart = one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]
        assert apart
    for number, (arrow, stretches) in enumerate(zip(arrows, drawn.paths, strict=True)):
        x, y = curve(stretches).T
        for place, (left, top, right, low) in enumerate(boxes):
            if place in (arrow.source, arrow.target) or owner[place] == number:
                continue
            assert not ((x > left) & (x < right) & (y > top) & (y < low)).any()
    assert all(low <= drawn.size[1] + 1e-6 and top >= -1e-6 for _, top, _, low in boxes)
    assert all(right <= drawn.size[0] + 1e-6 and left >= -1e-6 for left, _, right, _ in boxes)


def test_an_edge_goes_from_its_source_through_its_label_to_its_target() -> None:
    arrows, drawn = drawn_cell(0, 4, dense=True)
    for arrow, stretches, label in zip(arrows, drawn.paths, drawn.labels, strict=True):
        source, target = drawn.nodes[arrow.source], drawn.nodes[arrow.target]
        assert stretches[0][1] == (source[0] + 13.5, source[1])
        assert stretches[-1][1][0] == target[0] - 13.5
        assert abs(stretches[-1][1][1] - target[1]) < 13.5
        xs = [x for left, right in stretches for x in (left[0], right[0])]
        assert xs[1:] == sorted(xs[1:])
        assert (label is None) == (arrow.label is None)
        if label is not None:
            assert any(
                one[0] <= label[0] <= two[0] and one[1] == label[1] for one, two in stretches
            )


def test_a_line_of_nodes_is_drawn_straight() -> None:
    drawn = layered([NODE] * 4, [Arrow(i, i + 1, LABEL) for i in range(3)])
    assert {round(y, 6) for _, y in drawn.nodes} == {13.5}
    assert [x for x, _ in drawn.nodes] == sorted(x for x, _ in drawn.nodes)


def test_a_diamond_has_no_crossing_and_is_symmetric() -> None:
    arrows = [Arrow(0, 1, LABEL), Arrow(0, 2, LABEL), Arrow(1, 3, LABEL), Arrow(2, 3, LABEL)]
    drawn = layered([NODE] * 4, arrows)
    start, one, two, end = (y for _, y in drawn.nodes)
    assert start == pytest.approx((one + two) / 2, abs=0.01)
    assert end == pytest.approx(start, abs=0.01)
    assert (drawn.labels[0][1] < drawn.labels[1][1]) == (one < two)


def test_an_input_that_nothing_reads_is_drawn() -> None:
    drawn = layered([NODE] * 4, [Arrow(0, 2, LABEL), Arrow(2, 3, None)])
    first, unread, state, end = (box(at, NODE) for at in drawn.nodes)
    assert first[0] == unread[0] < state[0] < end[0]
    assert unread[1] >= first[3] or first[1] >= unread[3]
    assert len(drawn.paths) == 2


def test_the_first_input_stands_above_the_second() -> None:
    for seed in range(6):
        _, drawn = drawn_cell(seed, 4, dense=False)
        assert drawn.nodes[0][1] < drawn.nodes[1][1]
