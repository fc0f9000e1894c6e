"""The comparison of several measured selections with the first one."""

from __future__ import annotations

from benchmarks.cut_selections import ARMS, rows_of, table


def test_rows_resume_and_pair_the_arms():
    """Each seed of a share has both arms; what is done is left out."""
    task, done = "digits:digits_net", {"cut"}
    rows = list(rows_of(task, 0, [0.25], lambda row: row["arm"] in done, epochs=1))
    assert [row["arm"] for row in rows] == ["first selection"]
    assert not list(rows_of(task, 0, [0.25], lambda row: row["arm"] in ARMS, epochs=1))
    better = {**rows[0], "arm": "cut", "accuracy": rows[0]["accuracy"] + 2.0}
    [*_, line] = table([*rows, better])
    assert "| 25% |" in line
    assert line.count("| 2.00 |") == 1
