"""Selection: which of the proposals to apply.

How the files fit together:

- `candidates` gathers the proposals of methods by channel and by group, and enforces what every
  rule guarantees: at most one edit per channel, and at least one channel left in each group;
- `rules` has the ranking rules: `TopFraction`, `Threshold` and `TradeOff`;
- `knapsack` has `Knapsack`, which maximises the total value within several budgets;
- `knapsack/shares` has `BudgetKnapsack`, which fills a budget for the whole network over rounds;
- `width_bounds` drops proposals that would make a group too narrow or too wide, before a rule
  selects;
- `rounding` rounds the selected widths to multiples of a number;
- `fit` reduces any selection to a budget for the edited model, in the steps of `fit_steps`.
"""

from ramify.select.fit import BUDGETS
from ramify.select.knapsack.rule import Knapsack, Selection
from ramify.select.knapsack.shares import BudgetKnapsack
from ramify.select.rules import Rule, Threshold, TopFraction, TradeOff

__all__ = [
    "BUDGETS",
    "BudgetKnapsack",
    "Knapsack",
    "Rule",
    "Selection",
    "Threshold",
    "TopFraction",
    "TradeOff",
]
