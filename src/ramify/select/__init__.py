"""Selection: which proposals to carry out."""

from ramify.select.knapsack import Knapsack, Selection
from ramify.select.rules import Rule, Threshold, TopFraction, TradeOff
from ramify.select.totals import BUDGETS, fit

__all__ = [
    "BUDGETS",
    "Knapsack",
    "Rule",
    "Selection",
    "Threshold",
    "TopFraction",
    "TradeOff",
    "fit",
]
