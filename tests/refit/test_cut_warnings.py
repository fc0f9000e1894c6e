"""What is said about a cut to a latency budget."""

import pytest

from ramify.cost import Cost
from ramify.refit.cut_warnings import latency_warnings

FULL, CUT = Cost(1000, 1000, 1000), Cost(500, 450, 450)
SLOW = "the cut network takes 6.8 ms and the budget is 5 ms: its shape was within the budget when"
HARDLY = "a budget of 50% of the latency left only 0.03 of the MACs, since the latency of this"


def said(after: float = 4.9, macs: int = 450, *, depth: bool = False) -> list[str]:
    cut = Cost(100, macs, macs)
    return latency_warnings({"latency": 5.0}, (10.0, after), FULL, cut, depth=depth)


def test_a_cut_that_is_within_its_latency_budget_is_not_warned_about() -> None:
    assert said() == said(5.2) == said(macs=170) == []
    assert latency_warnings({"macs": 450}, None, FULL, CUT, depth=False) == []
    assert latency_warnings(None, None, FULL, CUT, depth=False) == []


def test_a_measurement_above_the_budget_is_told() -> None:
    [told] = said(6.8)
    assert told.startswith(SLOW)


@pytest.mark.parametrize("depth", [False, True])
def test_a_latency_that_hardly_depends_on_widths_is_told_unless_blocks_may_go(depth: bool) -> None:
    told = said(macs=30, depth=depth)
    assert [text.startswith(HARDLY) for text in told] == [True] * (not depth)
