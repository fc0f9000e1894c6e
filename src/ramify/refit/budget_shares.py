"""Budgets relative to the current cost of a network: `{"macs": "50%"}`."""

from __future__ import annotations

from collections.abc import Mapping

from ramify.cost import RESOURCES, graph_cost
from ramify.errors import RamifyError
from ramify.latency import measure_edited
from ramify.tracing import ChannelGraph


def in_numbers(graph: ChannelGraph, budget: Mapping[str, float | str]) -> dict[str, float]:
    """A budget in absolute numbers.

    Args:
        graph: the graph of the network, of which a budget may be a share, such as `"50%"`.
        budget: the most that the network may have, by resource.

    Returns:
        Totals by resource.

    Raises:
        RamifyError: a text is not a percentage, or is a percentage of the loss.
    """
    totals = dict[str, float]()
    for name, most in budget.items():
        totals[name] = share_of(name, most)
        if isinstance(most, str):
            counted = name in RESOURCES
            totals[name] *= graph_cost(graph).of(name) if counted else measure_edited(graph).median
    return totals


def share_of(name: str, most: float | str) -> float:
    """A budget unchanged, or, if it is a percentage, as a share of the full network's cost."""
    if not isinstance(most, str):
        return most
    try:
        share = float(most.removesuffix("%")) / 100
    except ValueError:
        share = 0.0
    if not (most.endswith("%") and 0 < share < 1) or name == "loss":
        raise RamifyError(
            f"the budget of {name} is {most!r}; give a number above 0, or a percentage of the "
            "full network between 0% and 100%, such as 50%."
        )
    return share
