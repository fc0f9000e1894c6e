"""The most value that several budgets allow: a knapsack over the widths of all groups."""
