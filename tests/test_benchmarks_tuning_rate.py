"""The comparison of fixed learning rates of fine-tuning with the one that trials find."""

from __future__ import annotations

import pytest

from benchmarks.tuning_rate import NETS, RATES, rows_of, table


def test_the_found_rate_is_a_column_of_the_table():
    found = {"lr": 0.01, "trials": []}
    rows = [
        {"data": "mnist", "net": "vit", "seed": seed, "share": 0.5, "epochs": 2, "lr": lr}
        | {"full": 90.0, "cut": 80.0, "tuned": 80.0 + number + seed, "found": found}
        for seed in (1, 2)
        for number, lr in enumerate(RATES)
    ]
    *_, line, mean, most = table(rows)
    assert line.startswith("| vit on mnist, 2 | 50% | 90.0 | 80.0 | 81.50 ± 0.50 | 82.50 ± 0.50 |")
    assert line.endswith("| 86.50 ± 0.50 | 83.50 ± 0.50 |")  # the smallest rate, the found one
    assert (
        mean
        == "| below the best rate, mean | | | | 5.00 | 4.00 | 3.00 | 2.00 | 1.00 | 0.00 | 3.00 |"
    )
    assert most.endswith("| 3.0 |")


@pytest.mark.parametrize("net", NETS)
def test_what_is_done_is_not_done_again(net):
    assert not list(rows_of("mnist", net, 0, [0.5], 2, lambda row: row["lr"] in RATES))
