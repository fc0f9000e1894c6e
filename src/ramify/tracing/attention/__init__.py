"""Products of two activations, as in attention: the rows that make a factor, and its scale."""
