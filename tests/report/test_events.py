from ramify.report.events import measured_gain


def test_measured_gain() -> None:
    edit = {"predicted_gain": 0.1, "loss_before": 1.0, "loss_after": 0.75}
    assert measured_gain(edit) == 0.25
    assert measured_gain({**edit, "loss_after": None}) is None
