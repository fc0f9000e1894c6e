import random
from typing import Any

from ramify.report.lineage import QUIET, layout, lineages


def test_split_prune_and_rest() -> None:
    """Channel 0 splits at the first edit; at the second, channel 1 goes and a copy of 0 splits."""
    tree = layout("conv", 3, [[0, 1, 2, 0], [0, 2, 3, 3]])
    assert tree.children(0) == [[0, 3], [1], [2]]
    assert tree.children(1) == [[0], [], [1], [2, 3]]
    assert tree.born == [[0, 0, 0], [1, 0, 0, 1], [1, 0, 2, 2]]
    assert tree.heights[2] == [0.5, 3 + 1.5 * QUIET, 1.5, 2.5]
    assert tree.heights[1] == [0.5, 3 + 0.5 * QUIET, 3 + 1.5 * QUIET, 2.0]
    assert tree.heights[0][0] == 1.25
    assert tree.extent == 3 + 2 * QUIET


def grow(rng: random.Random, width: int, edits: int) -> list[list[int]]:
    parents = []
    for _ in range(edits):
        kept = [c for c in range(width) if rng.random() > 0.1] or [0]
        parents.append(kept + [c for c in kept if rng.random() < 0.3])
        width = len(parents[-1])
    return parents


def test_no_two_lines_cross() -> None:
    """Between two levels the order of the children follows the order of their parents."""
    rng = random.Random(0)
    for _ in range(30):
        tree = layout("conv", 8, grow(rng, 8, 4))
        for level, parents in enumerate(tree.parents):
            order = sorted(range(len(parents)), key=tree.heights[level + 1].__getitem__)
            starts = [tree.heights[level][parents[child]] for child in order]
            assert starts == sorted(starts)
            assert len(set(tree.heights[level + 1])) == len(parents)


def test_only_changed_layers_have_a_tree(events: list[dict[str, Any]]) -> None:
    edits = [event for event in events if event["event"] == "edit" and event["job"] == "grown-0"]
    still = [
        {
            **edit,
            "widths_before": {**edit["widths_before"], "fc": 10},
            "widths_after": {**edit["widths_after"], "fc": 10},
            "origin": {group: edit["origin"][group] for group in ("conv1", "conv3")},
        }
        for edit in edits
    ]
    trees = lineages(still)
    assert [tree.group for tree in trees] == ["conv1", "conv3"]
    for tree in trees:
        widths = [len(level) for level in tree.heights]
        before = edits[0]["widths_before"][tree.group]
        assert widths == [before, *(edit["widths_after"][tree.group] for edit in edits)]
    assert lineages([]) == []
