"""The largest total value within several budgets, with at most one edit per channel.

How the files fit together:

- `rule` has the public classes, `Knapsack` and `Selection`;
- `shares` has `BudgetKnapsack`, which fills a budget for the whole network over several rounds;
- with a traced model, the value of a group depends only on its new width (`value_curve`), and the
  cost on the widths of all groups (`problem` combines both);
- `widths` solves that problem: `linear_bound` bounds the value by a linear program and finds widths
  to start from, `local_search` improves them, and a mixed-integer program solves small cases
  exactly;
- `latency_budget` adds a budget in milliseconds, with predicted costs;
- without a traced model costs simply add up, and `additive` solves that case;
- `solver` calls scipy for both.
"""
