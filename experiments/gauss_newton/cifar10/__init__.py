"""Growing, pruning and widening at equal parameters and equal training (Tables 1 and 2)."""
