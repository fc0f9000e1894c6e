"""Selection: which of the proposals to carry out.

How the files fit together:

- `candidates` gathers the proposals of methods, by channel and by group, and holds to what every
  rule keeps: one edit a channel, and one channel left in each group;
- `rules` are the rules that rank: `TopFraction`, `Threshold` and `TradeOff`;
- `knapsack` is the rule that finds the most value within several budgets: `Knapsack`;
- `knapsack/shares` fills a budget for the whole network round by round: `BudgetKnapsack`;
- `width_bounds` leaves out what would make a group too narrow or too wide, before a rule selects;
- `rounding` makes the widths that a selection leads to multiples of a number;
- `fit` cuts any selection to totals that the edited model may have, in the steps of `fit_steps`.
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
