"""The rules by their command-line names, and rules defined by the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ramify.errors import RamifyError
from ramify.imports import made_with, object_at, takes_arguments
from ramify.select.knapsack.shares import BudgetKnapsack
from ramify.select.rules import Rule, Threshold, TopFraction, TradeOff

RULES: dict[str, type[Rule]] = {
    "top-fraction": TopFraction,
    "threshold": Threshold,
    "trade-off": TradeOff,
    "knapsack": BudgetKnapsack,
}


def rule_named(
    name: str, *, multiple_of: int = 1, settings: Mapping[str, Any] | None = None
) -> Rule:
    """The selection rule with this name.

    Args:
        name: one of `RULES`, or ``package.module:object`` for a user's own: a rule, or a class or
            function that returns one, called with ``multiple_of=`` if it takes that.
        multiple_of: the number that the width of a changed group becomes a multiple of.
        settings: fields of the rule's dataclass; only for the names of `RULES`.

    Returns:
        The rule.

    Raises:
        RamifyError: the rule does not exist, or a setting is out of range.

    Example:
        >>> rule_named("top-fraction", settings={"fraction": 0.5})
        TopFraction(fraction=0.5, per_group=False, multiple_of=1, per=None, tilt=0.0)
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
