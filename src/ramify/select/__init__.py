"""Selection: which proposals to carry out."""

from ramify.select.fit import BUDGETS
from ramify.select.knapsack.rule import Knapsack, Selection
from ramify.select.rules import Rule, Threshold, TopFraction, TradeOff

__all__ = [
    "BUDGETS",
    "Knapsack",
    "Rule",
    "Selection",
    "Threshold",
    "TopFraction",
    "TradeOff",
]
