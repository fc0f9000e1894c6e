"""The comparison of several measured selections with the first one."""

from __future__ import annotations

from benchmarks.cut_selections import ARMS, rises, rows_of, table

SETTING = {"task": "digits:digits_net", "seed": 0, "unseen": False}


def test_rows_resume_and_pair_the_arms():
    """Each seed of a share has both arms; what is done is left out."""
    arms, done = ["cut", "first selection"], {"cut"}
    rows = list(rows_of(SETTING, [0.25], arms, lambda row: row["arm"] in done, epochs=1))
    assert [row["arm"] for row in rows] == ["first selection"]
    assert not list(rows_of(SETTING, [0.25], arms, lambda row: row["arm"] in ARMS, epochs=1))
    better = {**rows[0], "arm": "cut", "accuracy": rows[0]["accuracy"] + 2.0}
    [*_, line] = table([*rows, better])
    assert "| 25% |" in line
    assert line.count("| 2.00 |") == 1


def test_small_rises_are_compared_by_their_size():
    """Of a precise regression; a row whose first selection takes much is left out."""
    setting = {"task": "smooth:perceptron", "seed": 0, "unseen": True}
    rows = list(rows_of(setting, [0.9], list(ARMS), lambda row: False, epochs=2))
    assert {row["arm"]: row["rise"] < 0.1 and row["harmless"] for row in rows} == dict.fromkeys(
        ARMS, True
    )
    changed = [
        {**row, "loss": row["loss"] * (1.5 if row["arm"] == "several" else 1)} for row in rows
    ]
    much = [{**row, "share": 0.1, "harmless": False} for row in rows]
    [_, _, line] = rises([*changed, *much])
    losses = {row["arm"]: row["loss"] for row in changed}
    first = losses["first selection"]
    change = 100 * (losses["several"] / first - 1)
    assert f"| to 10% | 1 | {first:.5f} | {change:.2f} | " in line
    assert line.startswith("| smooth:perceptron, unseen, 1 |")
