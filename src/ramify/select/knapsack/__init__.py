"""The most value that several budgets allow, at most one edit a channel.

How the files fit together:

- `rule` has the public classes, `Knapsack` and `Selection`;
- `shares` fills a budget for the whole network over several rounds: `BudgetKnapsack`;
- with a traced model, the value of a group depends on its new width alone (`value_curve`), and the
  cost on the widths of all groups (`problem` puts both together);
- `widths` solves that: `linear_bound` bounds the value by a linear program and finds widths to
  start from, `local_search` improves them; a mixed-integer program proves small cases;
- `latency_budget` adds a budget of milliseconds, whose costs are predicted;
- without a traced model costs simply add up, and `additive` solves it.
"""
