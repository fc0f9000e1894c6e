from typing import Any

from ramify.report.events import ARMS, explained, measured_gain, unsized


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
