"""Selection rules."""

from __future__ import annotations

import pytest

import ramify
from ramify.cost import Cost


def proposals(*indices: float) -> list[ramify.Proposal]:
    return [
        ramify.Proposal(ramify.Split("g", n), -index / 2, Cost(1, 1), index)
        for n, index in enumerate(indices)
    ]


def channels(chosen: list[ramify.Proposal]) -> list[int]:
    return [proposal.edit.channel for proposal in chosen]


def test_top_fraction_counts_all_channels_and_takes_only_gains() -> None:
    offered = proposals(0.5, -1.0, -3.0, 2.0, -2.0, 0.1, 0.2, 0.3, 0.4, 0.6)
    assert channels(ramify.TopFraction(0.2).select(offered)) == [2, 4]
    assert channels(ramify.TopFraction(0.21).select(offered)) == [2, 4, 1]
    assert channels(ramify.TopFraction(1.0).select(offered)) == [2, 4, 1]
    assert ramify.TopFraction(0.5).select([]) == []


def test_threshold_takes_at_most_m_below_lambda() -> None:
    offered = proposals(-0.5, -3.0, 1.0, -2.0)
    assert channels(ramify.Threshold().select(offered)) == [1, 3, 0]
    assert channels(ramify.Threshold(most=2).select(offered)) == [1, 3]
    assert channels(ramify.Threshold(index=-1.0).select(offered)) == [1, 3]
    assert ramify.Threshold(index=-4.0).select(offered) == []


def test_settings_are_checked() -> None:
    with pytest.raises(ramify.RamifyError, match="above 0 and up to 1"):
        ramify.TopFraction(0.0)
    with pytest.raises(ramify.RamifyError, match="at least 1"):
        ramify.Threshold(most=0)
