from typing import Any

from ramify.report.events import ARMS, explained, measured_gain, named_at_last, unsized


def test_measured_gain() -> None:
    edit = {"predicted_gain": 0.1, "loss_before": 1.0, "loss_after": 0.75}
    assert measured_gain(edit) == 0.25
    assert measured_gain({**edit, "loss_after": None}) is None


def test_networks_of_a_size_are_explained_and_told_apart(
    events: list[dict[str, Any]], sized: list[dict[str, Any]]
) -> None:
    assert "Cut to 1,800 parameters" in explained("cut-1800")
    assert "everywhere, to 900 parameters" in explained("wide-900")
    assert (explained("wide"), explained("other")) == (ARMS["wide"], "")
    assert len(sized) > len(events)
    assert unsized(sized) == events


def test_edits_by_the_names_that_layers_have_at_last() -> None:
    """A copy comes between `1` and what was `2`, and then a channel of what is now `3` goes."""
    first = {
        "widths_before": {"1": 4, "2": 6},
        "widths_after": {"1": 5, "2": 5, "3": 6},
        "origin": {"1": [0, 1, 2, 3, 3], "2": [0, 1, 2, 3, 3], "3": [0, 1, 2, 3, 4, 5]},
        "came_from": {"1": "1", "2": "1", "3": "2"},
        "proposals": [{"group": "2", "channel": 0}, {"group": "1", "channel": 3}],
    }
    second = {
        "widths_before": {"1": 5, "2": 5, "3": 6},
        "widths_after": {"1": 5, "2": 5, "3": 5},
        "origin": {"3": [0, 1, 2, 3, 4]},
        "proposals": [{"group": "3", "channel": 5}],
    }
    renamed, same = named_at_last([first, second])
    assert same == second
    assert renamed["widths_before"] == {"1": 4, "2": 4, "3": 6}
    assert renamed["widths_after"] == first["widths_after"]
    assert renamed["origin"] == first["origin"]
    assert [proposal["group"] for proposal in renamed["proposals"]] == ["3", "1"]
    assert named_at_last([second]) == [second]
