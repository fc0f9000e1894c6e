"""The rules by the names of the command line, and those of the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ramify.cost import RESOURCES, graph_cost
from ramify.errors import RamifyError
from ramify.imports import made_with, object_at, takes_arguments
from ramify.latency import measure_edited
from ramify.methods import Proposal
from ramify.select.knapsack.rule import Knapsack
from ramify.select.rules import Rule, Threshold, TopFraction, TradeOff


@dataclass(frozen=True)
class BudgetKnapsack:
    """A knapsack over what is left of a budget for the whole network.

    Args:
        budget: the most that the network may cost, by name.
        multiple_of: as of :class:`Knapsack`.
    """

    budget: Mapping[str, float]
    multiple_of: int = 1

    def select(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The edits of the largest total value with which the network keeps within the budget."""
        graph = proposals[0].graph if proposals else None
        if graph is None:
            return []
        cost = graph_cost(graph)
        counted = [name for name in self.budget if name in RESOURCES]
        left: dict[str, Any] = {name: self.budget[name] - cost.of(name) for name in counted}
        if "latency" in self.budget:
            left["latency"] = self.budget["latency"] - measure_edited(graph).median
        return Knapsack(**left, multiple_of=self.multiple_of).select(proposals)


RULES: dict[str, type[Rule]] = {
    "top-fraction": TopFraction,
    "threshold": Threshold,
    "trade-off": TradeOff,
    "knapsack": BudgetKnapsack,
}


def rule_named(
    name: str, *, multiple_of: int = 1, settings: Mapping[str, Any] | None = None
) -> Rule:
    """The selection rule of this name.

    Args:
        name: one of `RULES`, or ``package.module:object`` for one of the user's own: a rule, or a
            class or function that makes one, called with ``multiple_of=`` where it takes that.
        multiple_of: what the width of a group that changes becomes a multiple of.
        settings: fields of the rule's dataclass; only for the names of `RULES`.

    Returns:
        The rule.

    Raises:
        RamifyError: there is no such rule, or a setting is out of range.

    Example:
        >>> rule_named("top-fraction", settings={"fraction": 0.5})
        TopFraction(fraction=0.5, per_group=False, multiple_of=1)
    """
    if name in RULES:
        kind: Any = RULES[name]
        known: Rule = kind(multiple_of=multiple_of, **(settings or {}))
        return known
    names = f"one of {', '.join(RULES)}, or package.module:object for one of your own"
    found, verb = object_at(name, "rule", names), "select(proposals)"
    rule: Rule = made_with(found, name, "rule", verb, multiple_of=multiple_of)
    takes_arguments(rule.select, 1, verb, name, "rule")
    if multiple_of not in (1, getattr(rule, "multiple_of", None)):
        raise RamifyError(
            f"multiple_of is {multiple_of}, and the rule {name} does not take it; leave it out, or "
            "name a class or function that takes multiple_of."
        )
    return rule
