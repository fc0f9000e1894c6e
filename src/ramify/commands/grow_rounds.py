"""How `ramify grow` divides its epochs into rounds, and the rule that it then takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MANY_ROUNDS = 20  # at most, where a budget is to end the growth
EARLY_FRACTION = 0.5  # of the channels change then, in each round
PRUNING = ("l1", "bn", "taylor")  # methods that propose prunes alone


def rounds_with_budget(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """How a network comes to a budget: soon, by many changes, in a schedule over the whole run.

    Args:
        values: The settings with their defaults.
        given: The settings that were given.

    Returns:
        The settings that this changes.
    """
    if values["rule"] == "knapsack":  # its rounds share the budget
        return {}
    span = values["span"] if "span" in given else "run"
    out: dict[str, Any] = {"span": span, "rounds": MANY_ROUNDS - 1}
    if out["span"] == "round":
        return out | {"rounds": MANY_ROUNDS}
    if not {"epochs", "rounds"} & set(given):  # as many epochs in all
        total = all_epochs(values)
        out["epochs"] = max(1, total // MANY_ROUNDS)
        out["rounds"] = total // out["epochs"] - 1
    if values["rule"] == "top-fraction":
        out["fraction"] = 1.0 if values["bottlenecks"] else EARLY_FRACTION
        out["per_layer"] = values["method"] not in PRUNING and "per" not in given
    if values["method"] == "gauss-newton":
        out |= {"schedule": "cosine", "phase": (out.get("epochs", values["epochs"]) + 1) // 2}
    return out


def rounds_without_budget(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without a budget: rounds as short as with one, and the other epochs after them.

    Args:
        values: The settings with their defaults.

    Returns:
        The settings that this changes.
    """
    if values["method"] != "gauss-newton":
        return {}
    total = all_epochs(values)
    epochs = max(1, total // MANY_ROUNDS)
    out = {"epochs": epochs, "total_epochs": total, "phase": (epochs + 1) // 2}
    return out | {"span": "run", "schedule": "cosine"}


def all_epochs(values: Mapping[str, Any]) -> int:
    """The total number of epochs of a run.

    Args:
        values: The settings with their defaults.

    Returns:
        The number.
    """
    return int(values.get("total_epochs") or values["epochs"] * (values["rounds"] + 1))


def implied_rule(values: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The default rule: the one that uses the given settings.

    Args:
        values: The settings with their defaults.
        given: The settings that were given.

    Returns:
        Its name.
    """
    if {"most", "threshold"} & set(given):
        return "threshold"
    learned = values.get("method") == "gauss-newton" and "budget" not in given
    return "trade-off" if "tradeoff" in given or learned else "top-fraction"
